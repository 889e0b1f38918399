from .client import ChatClient as ChatClient
from .ledger import Ledger as Ledger
from .request import (
    ChatAnswer as ChatAnswer,
)
from .request import (
    ChatFailure as ChatFailure,
)
from .request import (
    ChatImage as ChatImage,
)
from .request import (
    ChatMessage as ChatMessage,
)
from .request import (
    ChatRequest as ChatRequest,
)
from .request import (
    OutOfBudget as OutOfBudget,
)
from .request import (
    Refused as Refused,
)
from .request import (
    Stopped as Stopped,
)
from .settings import ChatSettings as ChatSettings
