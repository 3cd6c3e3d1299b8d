"""What `torch.save` writes, by hand: pickles opcode by opcode, so that they can also name what torch never would."""

import struct
import zipfile
from typing import Any, NamedTuple

import numpy as np

STORAGES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}


class Global(NamedTuple):
    module: str
    name: str


class Call(NamedTuple):
    function: Any
    args: tuple


class Persistent(NamedTuple):
    pid: Any


class Build(NamedTuple):
    """A value whose attributes the pickle sets."""

    target: Any
    state: Any


class Ordered(NamedTuple):
    """An OrderedDict, with what torch hangs on it."""

    items: dict
    attributes: dict | None = None


def encode(value) -> bytes:
    """Opcodes of protocol 2 that leave the value on the stack."""
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, Global):
        return b"c" + f"{value.module}\n{value.name}\n".encode()
    if isinstance(value, Call):
        return encode(value.function) + encode(tuple(value.args)) + b"R"
    if isinstance(value, Persistent):
        return encode(value.pid) + b"Q"
    if isinstance(value, Build):
        return encode(value.target) + encode(value.state) + b"b"
    if isinstance(value, Ordered):
        build = encode(value.attributes) + b"b" if value.attributes else b""
        return encode(Call(Global("collections", "OrderedDict"), ())) + _items(value.items) + build
    if isinstance(value, int):
        if abs(value) < 2**31:
            return b"J" + struct.pack("<i", value)
        data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8a" + bytes([len(data)]) + data
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
    if isinstance(value, tuple):
        return b"(" + b"".join(map(encode, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(encode, value)) + b"e"
    return b"}" + _items(value)


def _items(items) -> bytes:
    return b"(" + b"".join(encode(key) + encode(value) for key, value in items.items()) + b"u"


def pickled(value) -> bytes:
    return b"\x80\x02" + encode(value) + b"."


class Saved:
    """Storages of one file, and tensors that view them."""

    def __init__(self, legacy=False):
        self.legacy = legacy
        self.data: dict[str, np.ndarray] = {}

    def storage(self, array, key=None) -> Persistent:
        key = str(len(self.data)) if key is None else key
        self.data[key] = np.asarray(array).ravel()
        kind = Global("torch", STORAGES[self.data[key].dtype.name])
        pid = ("storage", kind, key, "cpu", self.data[key].size)
        return Persistent((*pid, None) if self.legacy else pid)

    def tensor(self, array) -> Call:
        array = np.asarray(array)
        steps = tuple(step // array.itemsize for step in np.empty(array.shape, array.dtype).strides)
        return view(self.storage(array), 0, array.shape, steps)

    def tensors(self, arrays) -> Ordered:
        return Ordered({name: self.tensor(value) for name, value in arrays.items()})

    def write(self, path, top, byteorder="little", root="archive", extra=()):
        if self.legacy:
            return self._write_legacy(path, top, byteorder)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"{root}/data.pkl", pickled(top))
            if byteorder:
                archive.writestr(f"{root}/byteorder", byteorder)
            for key, array in self.data.items():
                archive.writestr(f"{root}/data/{key}", array.tobytes())
            archive.writestr(f"{root}/version", "3\n")
            for name in extra:
                archive.writestr(f"{root}/{name}", b"")

    def _write_legacy(self, path, top, byteorder):
        sizes = {"short": 2, "int": 4, "long": 4}
        system = {"protocol_version": 1001, "little_endian": byteorder == "little", "type_sizes": sizes}
        parts = [pickled(value) for value in (0x1950A86A20F9469CFC6C, 1001, system, top, sorted(self.data))]
        for key in sorted(self.data):
            parts += [struct.pack("<q", self.data[key].size), self.data[key].tobytes()]
        path.write_bytes(b"".join(parts))


def view(storage, offset, shape, strides) -> Call:
    rebuild = Global("torch._utils", "_rebuild_tensor_v2")
    return Call(rebuild, (storage, offset, tuple(shape), tuple(strides), False, Ordered({})))


def write_pth(path, arrays, legacy=False):
    """A state_dict as `torch.save` writes it."""
    saved = Saved(legacy)
    saved.write(path, saved.tensors(arrays))
