"""Readers of published data sets: from a folder in the publisher's layout to a manifest.

`registry` lists the readers, `source` contains their shared code, and `published` has the published counts that each
copy is compared with.
"""

from explllm.data.readers.registry import READERS, Reading, read_data_set

__all__ = ["READERS", "Reading", "read_data_set"]
