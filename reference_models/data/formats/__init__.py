"""Data formats, one file each. A format is selected by name or detected from the files of a data set."""

from reference_models.data.formats.base import (
    SPLITS,
    DataFormat,
    check_root,
    get_format,
    list_formats,
    recognise,
    register_format,
)
from reference_models.data.formats.conll import Conll
from reference_models.data.formats.flickr30k_entities import Flickr30kEntities
from reference_models.data.formats.jsonl import Jsonl
from reference_models.data.formats.layout import Layout
from reference_models.data.formats.mnre import Mnre
from reference_models.data.formats.parquet import Parquet
from reference_models.data.formats.twitter import Twitter

__all__ = [
    "SPLITS",
    "Conll",
    "DataFormat",
    "Flickr30kEntities",
    "Jsonl",
    "Layout",
    "Mnre",
    "Parquet",
    "Twitter",
    "check_root",
    "get_format",
    "list_formats",
    "recognise",
    "register_format",
]
