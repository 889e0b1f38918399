"""Training and evaluation data: readers, data modules, augmentation.

The `readers` convert a data set in its publisher's layout to a manifest. The LightningDataModules read a manifest, a
folder of class folders or drawn faces, and mix FER and CoT conversations for training. They work with a Trainer or,
after `prepare_for(model)`, without one.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
