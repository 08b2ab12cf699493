"""Will this circuit still have a gradient with more wires?

For random weights of a deep circuit the gradient's variance halves with every wire added: a plateau without a
direction, on which no optimiser moves (McClean et al. 2018). How fast it shrinks depends on depth, on the weights at
the start, and on the cost: one that looks at all wires at once (global) dies sooner than one that averages over wires
(local; Cerezo et al. 2021). This script measures the variance against wires and layers and fits the bits lost per wire.

    python -m qwafer.diagnostics.barren_plateau --layers 4 --init-scale 0.1
"""

import sys

from qwafer.diagnostics._common import parser, run, spec_of


def main(argv: list[str] | None = None) -> int:
    """Print the variance of the gradient by size and cost, and the fitted rates."""
    options = parser(__doc__)
    options.add_argument("--init-scale", type=float, help="standard deviation of the initial weights (uniform only)")
    options.add_argument("--max-qubits", type=int, default=7, help="largest circuit (7)")
    options.add_argument("--samples", type=int, default=500, help="random weights per size (500)")
    arguments = options.parse_args(argv)

    def body() -> object:
        from qwafer.probes import trainability

        report = trainability(
            spec_of(arguments, "mean_z"),
            qubits=range(2, arguments.max_qubits + 1),
            n_samples=arguments.samples,
            init_scale=arguments.init_scale,
            seed=arguments.seed,
        )
        print(f"{'wires':>6} {'layers':>6} {'cost':>7} {'weights':>8} {'variance':>12}")
        for row in report.numbers["variances"]:
            size = f"{row['n_qubits']:6d} {row['n_layers']:6d}"
            print(f"{size} {row['cost']:>7} {row['weights']:>8} {row['variance']:12.3e}")
        for name, fit in report.numbers["decay"].items():
            print(f"{name}: {fit['rate']:.3f} bits [{fit['low']:.3f}, {fit['high']:.3f}]")
        return report

    return run(body)


if __name__ == "__main__":
    sys.exit(main())
