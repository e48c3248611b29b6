"""Makes threadpoolctl see the worker pool: threadpool_limits, as joblib and scikit-learn use it, limits clstm too."""

from __future__ import annotations

from threadpoolctl import LibController, register

from . import _core
from .runtime import set_num_threads


class ClstmController(LibController):  # type: ignore[misc]
    """The pool inside the extension module."""

    user_api = "clstm"
    internal_api = "clstm"
    filename_prefixes = ("_core",)
    check_symbols = ("clstm_get_num_threads", "clstm_set_num_threads")

    def get_num_threads(self) -> int:
        return _core.get_num_threads()

    def set_num_threads(self, num_threads: int) -> None:
        set_num_threads(num_threads)

    def get_version(self) -> str:
        return _core.version()


register(ClstmController)
