"""Networks that are trained on wafer maps before they are frozen."""

from qwafer.networks.network import NETWORKS as NETWORKS
from qwafer.networks.network import Network as Network
from qwafer.networks.network import is_network as is_network
from qwafer.networks.network import network as network
