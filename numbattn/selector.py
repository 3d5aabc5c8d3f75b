"""Which backend runs a call: the registry, and what the user has chosen."""

from __future__ import annotations

import contextlib
import difflib
import importlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

from . import config
from .errors import BackendUnavailableError, OptionError, shown

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from .backends import Backend
    from .problem import AttentionProblem

BUILTIN = {
    "reference": "numbattn.backends.reference",
    "cpu": "numbattn.backends.cpu",
    "cuda": "numbattn.backends.cuda",
}
"""The backends of this package; a new one is one more line."""

AUTO = "auto"
GROUP = "numbattn.backends"
"""Entry-point group by which other packages offer theirs."""

_HOST_BACKEND = "cpu"  # what "auto" means for arrays in host memory
_DEVICE_BACKEND = "cuda"  # and on a device
_NEEDED = ("name", "unavailable_reason", "run", "workspace_bytes", "plan", "describe")
_loaded: dict[str, Backend] = {}


def choose(name: str | None, problem: AttentionProblem | None = None) -> Backend:
    """Return the backend for a call; nothing ever falls back to another one.

    Parameters
    ----------
    name : str or None
        What the call names; None takes the setting.
    problem : AttentionProblem, optional
        The call: "auto" goes to where its arrays are. Without one it is "cpu".

    Returns
    -------
    Backend
        One that can run now.

    Raises
    ------
    OptionError
        There is no such backend.
    BackendUnavailableError
        It cannot run, or not on arrays of a device; the message has the reason.
    """
    if problem is not None and problem.on_device:
        return on_device(name, "query", "run_device")
    wanted = config.current().backend if name is None else name
    # an array, which `load` is going to refuse, does not compare with a word
    actual = _HOST_BACKEND if isinstance(wanted, str) and wanted == AUTO else wanted
    try:
        backend = _loaded[actual]
    except (KeyError, TypeError):
        backend = load(actual, _asker(name))
    reason = backend.unavailable_reason()
    if reason is not None:
        _unavailable(wanted, actual, reason)
    return backend


def _asker(name: str | None) -> str:
    """Return what named the backend: an argument, or a setting and its source."""
    if name is None and config.origin("backend").startswith("environment"):
        return config.variable("backend")
    return "backend"


def _unavailable(wanted: str, actual: str, reason: str) -> NoReturn:
    asked = f"backend {actual!r}" + (", which 'auto' means here," * (wanted == AUTO))
    raise BackendUnavailableError(
        f"{asked} cannot run: {reason}. Choose another by backend= or set_backend; "
        "numbattn.list_backends() shows which can run"
    )


def on_device(name: str | None, argument: str, method: str) -> Backend:
    """Return the backend for an argument on a CUDA device: one that has the method.

    Raises
    ------
    OptionError
        There is no such backend.
    BackendUnavailableError
        It cannot run, or takes arrays in host memory only.
    """
    wanted, backend = _of_device(name)
    if hasattr(backend, method) and backend.unavailable_reason() is None:
        return backend
    raise refuse_device(wanted, argument)


def _of_device(name: str | None) -> tuple[str, Backend]:
    wanted = config.current().backend if name is None else name
    automatic = isinstance(wanted, str) and wanted == AUTO
    return wanted, load(_DEVICE_BACKEND if automatic else wanted, _asker(name))


def refuse_device(
    name: str | None,
    argument: str,
    why: str = "it has to be in host memory here, as query and key are",
) -> BackendUnavailableError:
    """Return the complaint about an array on a CUDA device.

    `why` is said where the backend itself takes some.
    """
    wanted, backend = _of_device(name)
    reason = backend.unavailable_reason()
    which = f"backend {backend.name!r}"
    which += ", which 'auto' means for it," * (wanted == AUTO)
    if reason is not None:
        why = f"{which} cannot run: {reason}"
    elif not hasattr(backend, "run_device"):
        why = f"{which} takes arrays in host memory"
    return BackendUnavailableError(
        f"{argument} is an array on a CUDA device, and {why}. Copy it to the host "
        f"first: {argument}.get() in CuPy, .cpu().numpy() in PyTorch, .copy_to_host() "
        "in Numba"
    )


def load(name: str, asker: str = "backend") -> Backend:
    """Return a backend by its name, imported now if it was not yet.

    Raises
    ------
    OptionError
        There is no such backend.
    BackendUnavailableError
        Its code cannot be imported, or is no backend.
    """
    if not isinstance(name, str):
        raise OptionError(f"{asker} is {shown(name)}; it has to be a backend's name")
    if name not in _loaded:
        found = (
            _import_builtin(name) if name in BUILTIN else _import_foreign(name, asker)
        )
        missing = [needed for needed in _NEEDED if not hasattr(found, needed)]
        if missing:
            raise BackendUnavailableError(
                f"backend {name!r} ({found!r}) is not a backend: it has no "
                f"{', no '.join(missing)}; see numbattn.backends.Backend"
            )
        if found.name != name:
            raise BackendUnavailableError(
                f"backend {name!r} calls itself {found.name!r}; the two names have to "
                "be the same"
            )
        _loaded.setdefault(name, found)
    return _loaded[name]


def _import_builtin(name: str) -> Any:
    try:
        return importlib.import_module(BUILTIN[name]).backend
    except ImportError as error:
        raise BackendUnavailableError(
            f"backend {name!r} cannot be imported: {error}"
        ) from error


def _import_foreign(name: str, asker: str) -> Any:
    entries = [entry for entry in _entry_points() if entry.name == name]
    if not entries:
        _unknown(name, asker)
    if len({entry.value for entry in entries}) > 1:
        owners = ", ".join(_owner(entry) for entry in entries)
        raise BackendUnavailableError(
            f"backend {name!r} is offered by more than one package ({owners}); "
            "uninstall all but one"
        )
    try:
        found = entries[0].load()
        return (
            found() if isinstance(found, type) or not hasattr(found, "run") else found
        )
    except Exception as error:  # someone else's code may raise anything
        raise BackendUnavailableError(
            f"backend {name!r} of {_owner(entries[0])} cannot be loaded: "
            f"{type(error).__name__}: {error}"
        ) from error


def _unknown(name: str, asker: str) -> NoReturn:
    names = [AUTO, *BUILTIN, *(entry.name for entry in _entry_points())]
    near = difflib.get_close_matches(name[:50].lower(), names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    raise OptionError(
        f"{asker} is {shown(name)}, and there is no such backend{hint} There are "
        f"{', '.join(dict.fromkeys(names))}"
    )


def _entry_points() -> list[EntryPoint]:
    from importlib.metadata import entry_points  # 10 ms, for few

    return list(entry_points(group=GROUP))


def _owner(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else entry.value


def check_runs(name: str) -> str:
    """Return the name of a backend that can run, or raise."""
    if not isinstance(name, str) or name != AUTO:
        backend = load(name)
        reason = backend.unavailable_reason()
        if reason is not None:
            _unavailable(name, name, reason)
    return name


def set_backend(name: str) -> None:
    """Choose the backend of this process.

    Parameters
    ----------
    name : str
        "auto", "cpu", "cuda", "reference", or one that another package offers.

    Raises
    ------
    OptionError
        There is no such backend.
    BackendUnavailableError
        It cannot run here; the choice stays as it was.

    See Also
    --------
    use_backend : The same for a ``with`` block, which it does not outlive.

    Examples
    --------
    >>> import numbattn
    >>> numbattn.set_backend("reference")
    >>> numbattn.get_backend()
    'reference'
    >>> numbattn.set_backend("auto")
    """
    config.update({"backend": check_runs(name)})


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Choose the backend within a ``with`` block, or a decorated function.

    The choice belongs to the context: asyncio tasks started inside inherit it, other
    tasks and threads do not see it, and a new thread sees `set_backend`.

    Parameters
    ----------
    name : str
        As for `set_backend`.

    Yields
    ------
    None
        Nothing.

    Raises
    ------
    OptionError
        There is no such backend.
    BackendUnavailableError
        It cannot run here.

    Examples
    --------
    >>> import numbattn
    >>> with numbattn.use_backend("reference"):
    ...     numbattn.get_backend()
    'reference'
    """
    with config.override({"backend": check_runs(name)}):
        yield


def get_backend() -> str:
    """Return the name that calls without ``backend=`` use here.

    Returns
    -------
    str
        The name in force by context, `set_backend`, NUMBATTN_BACKEND, or "auto".

    Examples
    --------
    >>> import numbattn
    >>> with numbattn.use_backend("reference"):
    ...     print(numbattn.get_backend())
    reference
    """
    return config.current().backend


def list_backends() -> dict[str, str | None]:
    """Return every backend, and why it cannot run.

    Returns
    -------
    dict of str to (str or None)
        By name: None where the backend can run, else the reason. What other
        packages offer is imported only once it is named in a call.

    Examples
    --------
    >>> import numbattn
    >>> print(numbattn.list_backends()["reference"])
    None
    """
    found: dict[str, str | None] = {}
    for name in BUILTIN:
        try:
            found[name] = load(name).unavailable_reason()
        except BackendUnavailableError as error:
            found[name] = str(error)
    for entry in _entry_points():
        if entry.name in _loaded:
            found[entry.name] = _loaded[entry.name].unavailable_reason()
        elif entry.name not in (*found, AUTO):
            found[entry.name] = (
                f"not loaded: {_owner(entry)} offers it, and it is imported when it "
                f"is named, as in set_backend({entry.name!r})"
            )
    return found
