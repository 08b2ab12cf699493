"""Does the engine compute the right gradient?

An optimiser trusts the gradient blindly: a wrong one looks like a bad learning rate. But every gradient can be had a
second way, from values alone: move one parameter a little (or, for a rotation, by +-pi/2, which is exact: the
parameter-shift rule), look how the output moves, divide. This script compares, for every parameter and input, the
engine's gradient with that, and with PennyLane's default.qubit in double precision; it names the worst offender.

    python -m qwafer.diagnostics.gradient_agreement --engine xla --readout mean_z_readout --outputs 3
"""

import sys

from qwafer.diagnostics._common import parser, run, spec_of


def main(argv: list[str] | None = None) -> int:
    """Compare the engine's gradient with derivatives from values and from the reference."""
    options = parser(__doc__)
    options.add_argument("--readout", default="mean_z_readout", help="readout of the circuit (mean_z_readout)")
    options.add_argument("--outputs", type=int, default=1, help="outputs of the readout (1)")
    options.add_argument("--points", type=int, default=2, help="random points (2)")
    arguments = options.parse_args(argv)

    def body() -> object:
        from qwafer.probes import circuit_subject, gather
        from qwafer.probes.suite import probe_gradients

        subject = circuit_subject(spec_of(arguments, arguments.readout, arguments.outputs), arguments.engine)
        reports = probe_gradients(gather(subject, points=arguments.points, seed=arguments.seed))
        print(f"{'group':>10} {'own values':>12} {'reference':>12} {'random sums':>12} {'tolerance':>12}")
        for group, row in reports[-1].numbers.get("groups", {}).items():
            columns = (row["own values"], row.get("reference", float("nan")), row["random sums"], row["tolerance"])
            print(f"{group:>10} " + " ".join(f"{value:12.2e}" for value in columns))
        return reports

    return run(body)


if __name__ == "__main__":
    sys.exit(main())
