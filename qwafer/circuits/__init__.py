"""What is computed: circuit specifications, their gate sequences and readouts. Nothing is executed here."""

from qwafer.circuits.operations import Operation as Operation
from qwafer.circuits.operations import operations as operations
from qwafer.circuits.operations import readout_operations as readout_operations
from qwafer.circuits.options import CIRCUITS as CIRCUITS
from qwafer.circuits.options import CircuitOptions as CircuitOptions
from qwafer.circuits.options import LayeredOptions as LayeredOptions
from qwafer.circuits.spec import ANSATZE as ANSATZE
from qwafer.circuits.spec import DTYPES as DTYPES
from qwafer.circuits.spec import ENCODINGS as ENCODINGS
from qwafer.circuits.spec import ENTANGLEMENTS as ENTANGLEMENTS
from qwafer.circuits.spec import READOUTS as READOUTS
from qwafer.circuits.spec import CircuitSpec as CircuitSpec
