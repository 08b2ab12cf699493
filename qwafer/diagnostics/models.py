"""Which parameters of the published models do anything, as published and as described?

Every class of Bowles, Ahmed and Schuld 2024 is probed at random points, as a user's own circuit would be: its circuit,
its feature map, or, where it has none, its function. A parameter or an input that is inert is what a bug looks like
from outside: weights that are never read, circuits that are all the same. What the probes cannot see stands outside of
the circuit, such as the examples that a scale is taken from. Variational circuits have two layers here.

    python -m qwafer.diagnostics.models --model weinet --out found.json
"""

import sys

from qwafer.diagnostics._common import parser, run_configured


def main(argv: list[str] | None = None) -> int:
    """Probe the models and print the table."""
    options = parser(__doc__, circuit=False)
    options.add_argument("--model", action="append", default=[], metavar="NAME", help="a model (all)")
    options.add_argument("--out", metavar="FILE", help="write what was found as JSON")
    arguments = options.parse_args(argv)

    def body() -> int:
        from qwafer.studies import findings_table, probe_models, write_findings

        findings = probe_models(arguments.model, arguments.seed)
        if arguments.out:
            write_findings(findings, arguments.out)
        print(findings_table(findings))
        return 0

    return run_configured(body)


if __name__ == "__main__":
    sys.exit(main())
