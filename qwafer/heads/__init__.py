"""Trainable maps from features to logits: a quantum head and its classical rivals."""

from qwafer.engines.memory import available_memory as available_memory
from qwafer.engines.memory import check_memory as check_memory
from qwafer.heads._base import GROUPS as GROUPS
from qwafer.heads._base import Head as Head
from qwafer.heads._base import group_of as group_of
from qwafer.heads._classical import LinearHead as LinearHead
from qwafer.heads._classical import MlpHead as MlpHead
from qwafer.heads._make import make_head as make_head
from qwafer.heads._make import make_program as make_program
from qwafer.heads._predict import predict_logits as predict_logits
from qwafer.heads._quantum import QuantumHead as QuantumHead
