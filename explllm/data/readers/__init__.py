"""Readers of published data sets: from a folder in the publisher's layout to a manifest.

`registry` is the table of readers, `source` the part they share, `published` the published counts that each copy is
compared with.
"""

from explllm.data.readers.registry import READERS, Reading, read_data_set

__all__ = ["READERS", "Reading", "read_data_set"]
