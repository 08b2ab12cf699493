"""Which parameters of this circuit do anything?

A parameter can be live (it moves the output, and its gradient says so), dead (it moves the output, but its gradient
is zero, so it is never trained), a ghost (a gradient, though nothing moves) or inert: neither, usually because of
where its gate stands. The last RZ before a Z measurement is inert: it commutes with everything that is measured after
it. This script finds the class of every parameter by moving it, and explains the inert ones by following the measured
Pauli strings backwards through the circuit.

    python -m qwafer.diagnostics.dead_parameters --engine xla --readout mean_z
"""

import sys

from qwafer.diagnostics._common import parser, run, spec_of


def main(argv: list[str] | None = None) -> int:
    """Classify every parameter and explain the inert ones."""
    options = parser(__doc__)
    options.add_argument("--readout", default="mean_z_readout", help="readout of the circuit (mean_z_readout)")
    arguments = options.parse_args(argv)

    def body() -> object:
        from qwafer.probes import circuit_subject, classify, gather, sensitivity

        evidence = gather(
            circuit_subject(spec_of(arguments, arguments.readout), arguments.engine),
            seed=arguments.seed,
            reference=False,
        )
        for label in ("live", "inert", "dead", "ghost"):
            names = [f"{g}{list(i)}" for (g, i), found in classify(evidence).items() if found == label]
            print(f"{label:>6}: {len(names):3d}  {', '.join(names[:6])}{' ...' if len(names) > 6 else ''}")
        return sensitivity(evidence)

    return run(body)


if __name__ == "__main__":
    sys.exit(main())
