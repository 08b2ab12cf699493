"""Does a trainable readout weight learn?

A readout s = sum_i w_i <Z_i> is linear in its weights, so mathematics fixes their gradient: ds/dw_i = <Z_i>, the
expectation value that the weight multiplies. Whatever computes the gradient must return those numbers. Here it is
made to, by three routes:

  hamiltonian   the w_i are coefficients of the measured operator, inside the program that Catalyst compiles and
                differentiates. Moving a weight moves the output, but its gradient is 0: it is dead and never trains.
  contraction   the <Z_i> are measured and multiplied by w outside, in JAX: alive.
  gates         the weights are angles of gates before the measurement (readout mean_z_readout): alive; the identity
                is then that of the Bloch vector, ds/dw = sum_i dM_i/dw . (<X_i>, <Y_i>, <Z_i>).

Exit status 0 if the identity holds, 1 if it does not.

    python -m qwafer.diagnostics.gradient_identity --readout z_vec --route hamiltonian
    python -m qwafer.diagnostics.gradient_identity --readout z_vec --route contraction
    python -m qwafer.diagnostics.gradient_identity --readout mean_z_readout --route gates
"""

import sys

import numpy as np

from qwafer.diagnostics._common import parser, run, spec_of


def main(argv: list[str] | None = None) -> int:
    """Check the identity on the route asked for, and print gradients beside expectation values."""
    options = parser(__doc__)
    options.add_argument("--readout", default="z_vec", help="z_vec or mean_z_readout (z_vec)")
    options.add_argument("--route", default="hamiltonian", help="hamiltonian, contraction or gates (hamiltonian)")
    arguments = options.parse_args(argv)

    def body() -> object:
        from qwafer.probes import gather, gradient_identity, route_subject

        spec = spec_of(arguments, arguments.readout)
        subject = route_subject(spec, arguments.route, arguments.engine)
        evidence = gather(subject, points=1, seed=arguments.seed, reference=False)
        report = gradient_identity(evidence)
        gradient = np.asarray(report.numbers["gradient"]).ravel()
        expected = np.asarray(report.numbers["expectation_values"]).ravel()
        place = "example {example} of point {point}".format(**report.numbers["place"])
        right = "<Z_i>" if arguments.readout == "z_vec" else "dM/dw . b"
        print(f"route {arguments.route}, readout {arguments.readout}, {arguments.qubits} wires, {place}")
        print(f"{'weight':>18} {'gradient ds/dw':>16} {right:>16}")
        for name, found, truth in zip(report.numbers["weights"], gradient, expected, strict=True):
            print(f"{name:>18} {found:16.9f} {truth:16.9f}")
        return report

    return run(body)


if __name__ == "__main__":
    sys.exit(main())
