"""What can this circuit express?

Four numbers, each with its yardstick. Expressibility: how far the states of random weights are from random states (KL
divergence; Sim et al. 2019). Entangling capability: how entangled they are (Meyer-Wallach Q; 0 product, 1 GHZ).
Fourier spectrum: the model is a trigonometric polynomial in each input, of a degree that the number of encodings
bounds (Schuld et al. 2021). Effective dimension: how many parameters count at this many examples (Abbas et al. 2021).
And the dimension of the Lie algebra: which unitaries depth could ever reach.

    python -m qwafer.diagnostics.expressive_power --engine xla --reupload
"""

import sys

from qwafer.diagnostics._common import parser, run, spec_of


def main(argv: list[str] | None = None) -> int:
    """Print the reports on expressive power."""
    options = parser(__doc__)
    options.add_argument("--readout", default="mean_z_readout", help="readout of the circuit (mean_z_readout)")
    arguments = options.parse_args(argv)

    def body() -> object:
        from qwafer.probes import circuit_subject, expressive_power, fisher_report, fourier_spectrum, lie_algebra

        subject = circuit_subject(spec_of(arguments, arguments.readout), arguments.engine)
        seed = arguments.seed
        return [
            *expressive_power(subject, seed=seed),
            fourier_spectrum(subject, seed=seed),
            fisher_report(subject, seed=seed),
            lie_algebra(subject),
        ]

    return run(body)


if __name__ == "__main__":
    sys.exit(main())
