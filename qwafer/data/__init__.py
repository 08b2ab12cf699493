"""Files in, labelled arrays out: readers, the synthetic generator, splits."""

from qwafer.data.audio import Clips as Clips
from qwafer.data.audio import read_audio as read_audio
from qwafer.data.audio import read_wav as read_wav
from qwafer.data.edge_iiot import DataTable as DataTable
from qwafer.data.edge_iiot import read_edge_iiot as read_edge_iiot
from qwafer.data.given_folds import make_given_fold as make_given_fold
from qwafer.data.lswmd import read_lswmd as read_lswmd
from qwafer.data.maps import WaferMaps as WaferMaps
from qwafer.data.maps import content_ids as content_ids
from qwafer.data.mixedwm38 import read_mixedwm38 as read_mixedwm38
from qwafer.data.source import READERS as READERS
from qwafer.data.source import read_maps as read_maps
from qwafer.data.spectrogram import MelOptions as MelOptions
from qwafer.data.spectrogram import mel_picture as mel_picture
from qwafer.data.splits import Split as Split
from qwafer.data.splits import make_fold as make_fold
from qwafer.data.splits import make_split as make_split
from qwafer.data.synthetic import synthetic_maps as synthetic_maps
from qwafer.data.tables import Embeddings as Embeddings
from qwafer.data.tables import Roles as Roles
from qwafer.data.tables import read_table as read_table
from qwafer.data.wm811k import read_wm811k as read_wm811k
