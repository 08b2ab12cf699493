"""Can these features and this split be trusted?

The commonest reason for a good test score is the data: the same wafer on both sides of the split, a feature that
holds the label, a class that is rarer in the test split. This script looks for each; then it permutes the labels,
after which any pipeline must score at chance, and, where the data have lots or times, splits by them and looks
whether the score survives.

    python -m qwafer.diagnostics.data_trust --features f.npz --task Edge-Loc
"""

import sys

from qwafer.diagnostics._common import parser, run


def main(argv: list[str] | None = None) -> int:
    """Print the reports on features, labels and split."""
    options = parser(__doc__, circuit=False)
    options.add_argument("--features", metavar="F.npz", default="synthetic", help="a FeatureSet, or maps (synthetic)")
    options.add_argument("--task", default="multilabel", help="multilabel, any, or a label's name (multilabel)")
    options.add_argument("--split-by", default="content", help="content, group, time or fold (content)")
    arguments = options.parse_args(argv)

    def body() -> object:
        from qwafer.config import DataConfig, RunConfig
        from qwafer.probes import label_permutation, probe_data, split_by_origin
        from qwafer.probes.suite import probed_data
        from qwafer.sweeps.sources import load_features
        from qwafer.training import prepare

        data_config = DataConfig(source=arguments.features, task=arguments.task, split_by=arguments.split_by)
        config = RunConfig(data=data_config)
        data = load_features({"data": config.data})["data"]
        probed = probed_data(prepare(config, data, arguments.seed), stratified=arguments.split_by == "content")
        return [
            *probe_data(probed),
            label_permutation(probed, seed=arguments.seed),
            split_by_origin(probed, seed=arguments.seed),
        ]

    return run(body)


if __name__ == "__main__":
    sys.exit(main())
