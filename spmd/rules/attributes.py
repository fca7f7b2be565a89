"""The attributes of an operator call, which TVM keeps in an object of its own type for each operator."""

from __future__ import annotations

from typing import Any

import tvm


def attributes(attrs: Any, **changed: Any) -> dict[str, Any]:
    """All fields of an attributes object by name, some of them `changed`."""
    fields = {f.name: getattr(attrs, f.name) for f in type(attrs).__tvm_ffi_type_info__.fields}
    return {**fields, **changed}


def with_attributes(attrs: Any, **changed: Any) -> Any:
    """An attributes object like this one, some fields `changed`."""
    return tvm.ir.make_node(type(attrs).__tvm_ffi_type_info__.type_key, **attributes(attrs, **changed))
