"""rows.py - memory of other people as rows of a plan: NumPy, DLPack, buffers; and back

bf16 has no NumPy type: a uint16 array holds its bits, as does any DLPack object of type bfloat16.

SPDX-License-Identifier: Apache-2.0
"""
import ctypes
import sys

import numpy as np

# plan's type -> (NumPy type of arrays made here, types accepted from outside; None = any)
TYPES = {
    'bf16': (np.dtype('<u2'), {'bfloat16', 'uint16'}),
    'f16': (np.dtype('<f2'), {'float16'}),
    'f32': (np.dtype('<f4'), {'float32'}),
    'byte': (np.dtype('u1'), None),
}

# ---- DLPack (dlpack.h), as much of it as is read here ----------------------------------------------------------------

DL_HOST = {1, 3}  # kDLCPU, kDLCUDAHost
DL_KINDS = {0: 'int', 1: 'uint', 2: 'float', 4: 'bfloat', 5: 'complex', 6: 'bool'}
DL_BFLOAT = 4


class DLTensor(ctypes.Structure):
    _fields_ = [('data', ctypes.c_void_p), ('device_type', ctypes.c_int32), ('device_id', ctypes.c_int32),
                ('ndim', ctypes.c_int32), ('code', ctypes.c_uint8), ('bits', ctypes.c_uint8), ('lanes', ctypes.c_uint16),
                ('shape', ctypes.POINTER(ctypes.c_int64)), ('strides', ctypes.POINTER(ctypes.c_int64)),
                ('byte_offset', ctypes.c_uint64)]


_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype = ctypes.c_void_p
_capsule_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]


def _tensor(capsule):
    """The DLTensor inside a capsule; it lives as long as the capsule."""
    return DLTensor.from_address(_capsule_pointer(capsule, b'dltensor'))


_nothing = ctypes.create_string_buffer(64)  # where empty memory is: NULL means "not given" to some calls


class Memory:
    """Contiguous values of one type: `pointer`, `count` values of `type` ('float32'), `itemsize` bytes each; `keep` owns them."""

    def __init__(self, pointer, shape, type_, itemsize, readonly, keep):
        self.pointer, self.shape, self.type, self.itemsize = pointer or ctypes.addressof(_nothing), tuple(shape), type_, itemsize
        self.readonly, self.keep = readonly, keep
        self.count = int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self):
        return self.count * self.itemsize


def _contiguous(shape, strides):
    step = 1
    for n, s in zip(reversed(shape), reversed(strides)):
        if n != 1 and s != step:
            return 0 in shape
        step *= n
    return True


def _of_dlpack(obj, what):
    capsule = obj.__dlpack__()
    t = _tensor(capsule)
    if t.device_type not in DL_HOST:
        raise ValueError(f'crosspress: {what} is on a device (DLPack type {t.device_type}); rows are host memory')
    shape = t.shape[:t.ndim]
    if t.strides and not _contiguous(shape, t.strides[:t.ndim]):
        raise ValueError(f'crosspress: {what} is not contiguous')
    name = f'{DL_KINDS.get(t.code, "code")}{t.bits}'
    return Memory((t.data or 0) + t.byte_offset, shape, name, t.bits * t.lanes // 8, False, (obj, capsule))


def _of_array(array, what):
    if not array.flags.c_contiguous:
        raise ValueError(f'crosspress: {what} is not contiguous')
    if array.dtype.byteorder == '>':
        raise ValueError(f'crosspress: {what} is big-endian')
    return Memory(array.ctypes.data, array.shape, array.dtype.name, array.itemsize, not array.flags.writeable, array)


def memory(obj, what):
    """Any host memory: an array, a DLPack object, or what supports the buffer protocol."""
    if isinstance(obj, np.ndarray):
        return _of_array(obj, what)
    if hasattr(obj, '__dlpack__'):
        return _of_dlpack(obj, what)
    try:
        return _of_array(np.frombuffer(obj, dtype=np.uint8), what)
    except (TypeError, ValueError):
        raise TypeError(f'crosspress: {what} must be an array, a DLPack object or a buffer, not {type(obj).__name__}') from None


# ---- rows ------------------------------------------------------------------------------------------------------------

def rows_of(obj, dtype, dim, what, writable=False, at_least=None):
    """(Memory, number of rows) of an object that holds whole rows of `dim` values of the plan's type."""
    m = memory(obj, what)
    accepted = TYPES[dtype][1]
    if accepted is not None and m.type not in accepted:
        raise TypeError(f'crosspress: {what} holds {m.type}, the plan is for {dtype} ({" or ".join(sorted(accepted))})')
    values = m.count if accepted is not None else m.nbytes
    if values % dim:
        raise ValueError(f'crosspress: {what} has {values} values (shape {m.shape}), not whole rows of {dim}')
    if writable and m.readonly:
        raise ValueError(f'crosspress: {what} is read-only')
    rows = values // dim
    if at_least is not None and rows < at_least:
        raise ValueError(f'crosspress: {what} has room for {rows} rows, {at_least} are needed')
    return m, rows


def _is_torch(obj):
    return type(obj).__module__.partition('.')[0] == 'torch' and 'torch' in sys.modules


def table(obj, dtype, what, shape=None):
    """A small table (expert numbers, gate weights) as a contiguous NumPy array of the type that the library reads; may be a copy."""
    if _is_torch(obj):
        obj = obj.detach().cpu()
        obj = (obj.float() if obj.is_floating_point() else obj).numpy()
    elif not isinstance(obj, np.ndarray) and hasattr(obj, '__dlpack__'):
        obj = np.from_dlpack(obj)
    array = np.asarray(obj)
    if np.dtype(dtype).kind == 'i' and array.size and array.dtype.kind not in 'iu':
        raise TypeError(f'crosspress: {what} holds {array.dtype}, not whole numbers')
    if shape is not None and array.shape != tuple(shape):
        raise ValueError(f'crosspress: {what} has shape {array.shape}, not {tuple(shape)}')
    return np.ascontiguousarray(array, dtype=dtype)


def empty(rows, dim, dtype, like=None):
    """Room for rows: a torch tensor when `like` is one, else a NumPy array (bf16 as uint16)."""
    if _is_torch(like):
        torch = sys.modules['torch']
        types = {'bf16': torch.bfloat16, 'f16': torch.float16, 'f32': torch.float32, 'byte': torch.uint8}
        return torch.empty((rows, dim), dtype=types[dtype])
    return np.empty((rows, dim), dtype=TYPES[dtype][0])


def empty_table(rows, columns, like=None):
    """Room for one f32 a slot, such as gradients of gate weights."""
    if _is_torch(like):
        return sys.modules['torch'].empty((rows, columns), dtype=sys.modules['torch'].float32)
    return np.empty((rows, columns), dtype=np.float32)


class BFloat16:
    """A uint16 array shown to DLPack consumers as bfloat16: `torch.from_dlpack(BFloat16(a))` shares a's memory."""

    def __init__(self, array):
        self.array = np.asarray(array)
        if self.array.dtype != np.uint16:
            raise TypeError(f'crosspress: bf16 bits are held in uint16, not {self.array.dtype}')

    def __dlpack__(self, **_):
        capsule = self.array.__dlpack__()
        _tensor(capsule).code = DL_BFLOAT
        return capsule

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def bf16_from_f32(x):
    """float32 -> bf16 bits, to nearest even; NaN stays NaN."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    rounded = ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(x), (bits >> 16).astype(np.uint16) | 0x40, rounded)


def f32_from_bf16(x):
    """bf16 bits -> float32, exactly."""
    return (np.asarray(x, dtype=np.uint32) << 16).view(np.float32)
