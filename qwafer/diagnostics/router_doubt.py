"""Does the router of a mixture know where it errs?

Monte-Carlo dropout of the router gives every example a doubt. This script asks what it is worth: whether the examples
that it doubts are the ones decided wrongly, whether it sees more than the confidence of the prediction, which costs
nothing, and whether it sees examples of another kind (--foreign, features of the same backbone).

    python -m qwafer.diagnostics.router_doubt MODEL --features f.npz --out doubt

MODEL is a saved predictor of head `mixture`, trained with head.router_dropout above 0. Written to --out: doubt.json
with every example, and three figures.
"""

import sys

from qwafer.diagnostics._common import parser, run_configured


def main(argv: list[str] | None = None) -> int:
    """Print what each measure of doubt is worth, and write the record and the figures."""
    options = parser(__doc__, circuit=False)
    options.add_argument("model", metavar="MODEL", help="a predictor that `Predictor.save` wrote")
    options.add_argument("--features", metavar="F.npz", required=True, help="the features that it was trained on")
    options.add_argument("--foreign", metavar="F.npz", help="features of another kind of examples")
    options.add_argument("--samples", type=int, default=64, metavar="S", help="samples of the dropout (64)")
    options.add_argument("--out", metavar="DIR", default="doubt", help="output directory (doubt)")
    arguments = options.parse_args(argv)

    def body() -> int:
        from qwafer.features import FeatureSet
        from qwafer.studies import router_doubt, write_router_doubt
        from qwafer.training import Predictor

        foreign = None if arguments.foreign is None else FeatureSet.load(arguments.foreign)
        found = router_doubt(
            Predictor.load(arguments.model),
            FeatureSet.load(arguments.features),
            n_samples=arguments.samples,
            seed=arguments.seed,
            foreign=foreign,
        )
        path = write_router_doubt(found, arguments.out)
        print(f"error rate on test: {found.error_rate:.4f} of {len(found.examples)} examples")
        for measure in found.worth:
            print(f"- {found.sentence(measure)}")
        if foreign is not None:
            seen = ", ".join(f"{name.replace('_', ' ')} {one.auc_foreign:.3f}" for name, one in found.worth.items())
            print(f"ROC-AUC for {len(foreign)} foreign examples: {seen}")
        print(f"written: {path}")
        return 0

    return run_configured(body)


if __name__ == "__main__":
    sys.exit(main())
