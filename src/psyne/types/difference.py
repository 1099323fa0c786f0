"""What differs between two descriptions of types, in words: theirs and yours, field by field."""

from __future__ import annotations

from typing import Any

__all__ = ["Description", "between", "between_types", "counterpart", "short", "subset_lacks"]

Description = dict[str, Any]
KINDS = ("struct", "array", "text", "bytes", "arrow")


def kind_of(d: Description) -> str:
    """Which kind of message it describes. A Struct has "bytes" as well."""
    return next((kind for kind in KINDS if kind in d), "record")


def short(d: Description | None) -> str:
    """A type in one line, or a field with dtype, shape and offset."""
    if d is None:
        return "(none)"
    if "offset" in d:
        what = f"struct of {d['bytes']} bytes" if "fields" in d else str(d["dtype"])
        return what + (str(d["shape"]) if d["shape"] else "") + f" at byte {d['offset']}"
    match kind_of(d):
        case "array":
            dims = d["shape"] if "shape" in d else f"[{', '.join(':' * d['ndim'])}] of at most {d['max_bytes']} bytes"
            return (
                f"Array {_element(d['array'])}{dims}"
                + (" in Fortran order" if d.get("order") == "F" else "")
                + (f" in memory of {d['resident']} devices" if "resident" in d else "")
            )
        case "struct":
            return f"Struct {d['struct']} ({', '.join(f['name'] for f in d['fields'])})"
        case "arrow":
            return f"ArrowBatch of at most {d['max_bytes']} bytes"
        case sized:
            return f"{sized.capitalize()} of at most {d[sized]} bytes"


def between(theirs: Description, yours: Description, path: str = "") -> str:
    """What differs between two types. ``path`` goes before the name of each part."""
    lines = _parts(theirs, yours, path)
    if lines is None:
        return f"{path.rstrip('.') + ': ' if path else ''}theirs: {short(theirs)}; yours: {short(yours)}"
    return "; ".join(lines) or "only the order of the fields"


def between_types(theirs: list[Description], yours: list[Description]) -> str:
    """What differs between the types of two channels: Structs by their names, others with the one of their kind."""
    if len(theirs) == len(yours) == 1:
        return between(theirs[0], yours[0])
    left, right = [d for d in theirs if d not in yours], [d for d in yours if d not in theirs]
    lines = []
    for mine in list(right):
        other = counterpart(left, mine, alone=sum(kind_of(d) == kind_of(mine) for d in right) == 1)
        if other is not None:
            left.remove(other)
            right.remove(mine)
            lines.append(between(other, mine, _name(mine) + "."))
    lines += [f"{short(d)} is only in theirs" for d in left] + [f"{short(d)} is only in yours" for d in right]
    return "; ".join(lines) or "only the order of the types"


def counterpart(theirs: list[Description], yours: Description, *, alone: bool = True) -> Description | None:
    """The type that is meant by yours: the Struct of that name, else the only one of that kind."""
    alike = [d for d in theirs if kind_of(d) == kind_of(yours)]
    named = [d for d in alike if "struct" in d and d["struct"] == yours["struct"]]
    if named:
        return named[0]
    return alike[0] if len(alike) == 1 and alone and "struct" not in yours else None


def subset_lacks(theirs: Description, yours: Description) -> str:
    """What stands against reading only the fields of yours: "" if nothing. They may lie at any offset."""
    have = {f["name"]: f for f in theirs["fields"]}
    lines = []
    for f in yours["fields"]:
        other = have.get(f["name"])
        if other is None:
            lines.append(f"{f['name']}: theirs (none), yours {_loose(f)}; theirs has {', '.join(have)}")
        elif _unplaced(other) != _unplaced(f):
            inner = _fields(other, f, f["name"] + ".") if _comparable(other, f) else []
            lines += inner or [f"{f['name']}: theirs {_loose(other)}, yours {_loose(f)}"]
    return "; ".join(lines)


def _name(d: Description) -> str:
    return str(d["struct"]) if "struct" in d else kind_of(d).capitalize()


def _element(d: Description) -> str:
    return str(d.get("dtype", "struct"))


def _parts(a: Description, b: Description, path: str) -> list[str] | None:
    """What differs between two types of one kind; None for two kinds."""
    kind = kind_of(a)
    if kind != kind_of(b):
        return None
    if kind == "struct":
        lines = _fields(a, b, path)
        lines += _items(path, [("name", a["struct"], b["struct"]), ("bytes", a["bytes"], b["bytes"])])
        return lines + _items(path, [("layout", a.get("layout", "rows"), b.get("layout", "rows"))])
    if kind == "array":
        of = _fields(a["array"], b["array"], path) if "fields" in a["array"] and "fields" in b["array"] else []
        items = [(key, a.get(key), b.get(key)) for key in ("shape", "ndim", "max_bytes")]
        items.append(("order", a.get("order", "C"), b.get("order", "C")))
        items.append(("device", a.get("resident"), b.get("resident")))
        return of + _items(path, [("dtype", _element(a["array"]), _element(b["array"])), *items])
    if kind == "arrow":
        items = [("schema", _arrow(a["arrow"]), _arrow(b["arrow"])), ("max_bytes", a["max_bytes"], b["max_bytes"])]
        return _items(path, items)
    return _items(path, [("max_bytes", a[kind], b[kind])])


def _items(path: str, items: list[tuple[str, Any, Any]]) -> list[str]:
    return [
        f"{path}{name}: theirs {'(none)' if a is None else a}, yours {'(none)' if b is None else b}"
        for name, a, b in items
        if a != b
    ]


def _fields(a: Description, b: Description, path: str) -> list[str]:
    """What differs between the fields of two records, into those that are records themselves."""
    left, right = ({f["name"]: f for f in d["fields"]} for d in (a, b))
    lines = []
    for name in dict.fromkeys([*left, *right]):
        theirs, yours = left.get(name), right.get(name)
        if theirs == yours:
            continue
        inside = _fields(theirs, yours, f"{path}{name}.") if theirs and yours and _comparable(theirs, yours) else []
        if not inside or short(theirs) != short(yours):
            lines.append(f"{path}{name}: theirs {short(theirs)}, yours {short(yours)}")
        lines += inside
    return lines


def _comparable(a: Description, b: Description) -> bool:
    return "fields" in a and "fields" in b


def _unplaced(f: Description) -> Description:
    return {key: value for key, value in f.items() if key != "offset"}


def _loose(f: Description) -> str:
    return short(f).rsplit(" at byte", 1)[0]


def _arrow(schema: str | None) -> str:
    """The fields of a serialised Arrow schema, if this process can read it."""
    if schema is None:
        return "any"
    try:
        import base64

        import pyarrow as pa

        return ", ".join(str(f) for f in pa.ipc.read_schema(pa.py_buffer(base64.b64decode(schema))))
    except Exception:
        return f"one of {len(schema)} characters"
