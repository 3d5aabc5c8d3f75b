# What the package offers, for lazy_loader, type checkers and editors alike.
from . import masks as masks
from . import plot as plot
from . import score_mods as score_mods
from . import testing as testing
from .api import attention as attention
from .api import scores as scores
from .api import weights as weights
from .errors import BackendUnavailableError as BackendUnavailableError
from .errors import DTypeError as DTypeError
from .errors import MemoryLimitError as MemoryLimitError
from .errors import NumbattnError as NumbattnError
from .errors import OptionError as OptionError
from .errors import ShapeError as ShapeError
from .estimate import estimate_memory as estimate_memory
from .explain import Explanation as Explanation
from .explain import explain as explain
from .memory import MemoryEstimate as MemoryEstimate
from .merge import merge_states as merge_states
from .ready import warmup as warmup
from .sdpa import scaled_dot_product_attention as scaled_dot_product_attention
from .selector import get_backend as get_backend
from .selector import list_backends as list_backends
from .selector import set_backend as set_backend
from .selector import use_backend as use_backend
from .settings import config_context as config_context
from .settings import get_config as get_config
from .settings import set_config as set_config
from .settings import show_config as show_config
from .streaming import iter_scores as iter_scores
from .varlen import attention_varlen as attention_varlen

__version__: str
