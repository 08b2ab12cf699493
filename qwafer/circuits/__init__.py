"""What is computed: gates, encodings, readouts, and circuits made of them. Nothing is executed here."""

from qwafer.circuits.captured import CapturedCircuit as CapturedCircuit
from qwafer.circuits.circuit import DTYPES as DTYPES
from qwafer.circuits.circuit import Circuit as Circuit
from qwafer.circuits.circuit import GateCircuit as GateCircuit
from qwafer.circuits.drawing import draw as draw
from qwafer.circuits.encodings import ENCODINGS as ENCODINGS
from qwafer.circuits.encodings import Encoding as Encoding
from qwafer.circuits.gates import INPUTS as INPUTS
from qwafer.circuits.gates import Gate as Gate
from qwafer.circuits.gates import Operation as Operation
from qwafer.circuits.options import CIRCUITS as CIRCUITS
from qwafer.circuits.options import CircuitOptions as CircuitOptions
from qwafer.circuits.options import LayeredOptions as LayeredOptions
from qwafer.circuits.readouts import READOUTS as READOUTS
from qwafer.circuits.readouts import Readout as Readout
from qwafer.circuits.spec import ANSATZE as ANSATZE
from qwafer.circuits.spec import ENTANGLEMENTS as ENTANGLEMENTS
from qwafer.circuits.spec import CircuitSpec as CircuitSpec
