"""Checkpoints of the repositories in which the families were published, converted to models of transformers."""

from detrcli.architectures.adapters.originals.lw_detr import LwDetr
from detrcli.architectures.adapters.originals.rf_detr import RfDetr
from detrcli.architectures.adapters.originals.rt_detr import DFine, RtDetr, RtDetrV2

REPOSITORIES = (RfDetr(), LwDetr(), RtDetr(), RtDetrV2(), DFine())
