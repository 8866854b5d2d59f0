"""test_header.py - the tables of _lib.py say what crosspress.h says

SPDX-License-Identifier: Apache-2.0
"""
import ctypes
import os
import re
import unittest

from crosspress import _lib

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TEXT = open(os.path.join(ROOT, 'lib/include/crosspress/crosspress.h')).read()
CODE = re.sub(r'/\*.*?\*/', '', TEXT, flags=re.S)

SCALARS = {'int': ctypes.c_int, 'size_t': ctypes.c_size_t, 'double': ctypes.c_double, 'uint64_t': ctypes.c_uint64, 'uint32_t': ctypes.c_uint32,
           'int32_t': ctypes.c_int32, 'float': ctypes.c_float, 'char': ctypes.c_char, 'void': None,
           'xp_log_fn': _lib.LogFn, 'xp_allgather_fn': _lib.AllgatherFn}


def enums():
    found = {}
    for body, name in re.findall(r'typedef enum xp_\w+ \{(.*?)\} (xp_\w+);', CODE, re.S):
        found[name] = {n: int(v) for n, v in re.findall(r'(XP_\w+) = (-?\d+)', body)}
    return found


def structs():
    found = {name: body for body, name in re.findall(r'typedef struct xp_\w+ \{(.*?)\} (xp_\w+);', CODE, re.S)}
    found.update(re.findall(r'^struct (xp_\w+) \{(.*?)\};', CODE, re.S | re.M))
    return {name: fields(body) for name, body in found.items()}


def fields(body):
    """[(name, C type, array length or 0)] of a struct's body; 'a, b' declarations are taken apart."""
    found = []
    for line in body.split(';'):
        line = ' '.join(line.split())
        if not line:
            continue
        base, names = re.fullmatch(r'((?:const )?\w+(?: \*)?)\s*(.*)', line).groups()
        for name in names.split(','):
            stars, name, length = re.fullmatch(r'\s*(\**)(\w+)(?:\[(\d+)\])?\s*', name).groups()
            found.append((name, base.strip() + (' *' if stars else ''), int(length or 0)))
    return found


def prototypes():
    found = {}
    for result, name, arguments in re.findall(r'XP_API ([^;()]*?)\b(xp_\w+)\(([^)]*)\);', CODE):
        types = [re.sub(r'\b\w+$', '', ' '.join(a.split())).strip() for a in arguments.split(',')]
        found[name] = (result.strip(), [] if types in ([''], ['void']) or arguments.strip() == 'void' else types)
    return found


ENUMS, STRUCTS = enums(), structs()


def as_ctypes(c_type):
    """The ctypes types that may stand for a C type."""
    base, stars = c_type.replace('const ', '').replace('*', '').strip(), c_type.count('*')
    if base in ENUMS and stars == 0:
        return {ctypes.c_int}
    if base in _lib.STRUCTS:
        # A struct that is only handed through may be an untyped pointer.
        return {ctypes.POINTER(_lib.STRUCTS[base]), ctypes.c_void_p}
    if base in SCALARS and stars == 0:
        return {SCALARS[base]}
    if base == 'char' and stars == 1:
        return {ctypes.c_char_p}
    if base in SCALARS and stars == 1:
        return {ctypes.c_void_p} | ({ctypes.POINTER(SCALARS[base])} if SCALARS[base] else set())
    if re.fullmatch(r'xp_\w+', base):  # handles
        return {ctypes.c_void_p} if stars == 1 else {ctypes.POINTER(ctypes.c_void_p)}
    raise AssertionError(f'no rule for the C type {c_type!r}')


class Header(unittest.TestCase):
    def test_parser_sees_the_header(self):
        self.assertGreater(len(prototypes()), 20)
        self.assertEqual(len(prototypes()), len(re.findall(r'XP_API [^_]', CODE)))
        self.assertIn(('max_recv_rows', 'size_t', 0), STRUCTS['xp_plan_desc'])

    def test_enums(self):
        self.assertEqual(_lib.ENUMS, ENUMS)

    def test_structs(self):
        self.assertEqual(sorted(_lib.STRUCTS), sorted(STRUCTS))
        for name, wanted in STRUCTS.items():
            with self.subTest(name):
                have = _lib.STRUCTS[name]._fields_
                self.assertEqual([n for n, _ in have], [n for n, _, _ in wanted])
                for (field, have_type), (_, c_type, length) in zip(have, wanted):
                    allowed = {t * length for t in as_ctypes(c_type)} if length else as_ctypes(c_type)
                    self.assertIn(have_type, allowed, f'{name}.{field} is {c_type}')

    def test_prototypes(self):
        self.assertEqual(sorted(_lib.PROTOTYPES), sorted(prototypes()))
        for name, (result, arguments) in prototypes().items():
            with self.subTest(name):
                have_result, have = _lib.PROTOTYPES[name]
                self.assertIn(have_result, as_ctypes(result))
                self.assertEqual(len(have), len(arguments), arguments)
                for h, c in zip(have, arguments):
                    self.assertIn(h, as_ctypes(c), c)

    def test_sizes_are_the_librarys(self):
        """The _init functions write sizeof of the real struct."""
        for name, cls in _lib.STRUCTS.items():
            init = getattr(_lib.lib, name + '_init', None)
            if name + '_init' in _lib.PROTOTYPES:
                value = cls()
                init(ctypes.byref(value))
                self.assertEqual(value.size, ctypes.sizeof(cls), name)

    def test_statuses_have_classes_by_blame(self):
        from crosspress import errors
        groups = {'XP_ERR_INVALID_ARG': errors.CallerError, 'XP_ERR_UNSUPPORTED': errors.CallerError,
                  'XP_ERR_NO_MEMORY': errors.MachineError, 'XP_ERR_SYSTEM': errors.MachineError,
                  'XP_ERR_TIMEOUT': errors.GroupError, 'XP_ERR_MISMATCH': errors.GroupError,
                  'XP_ERR_CORRUPT': errors.CorruptError, 'XP_ERR_INTERNAL': errors.InternalError}
        for name, cls in groups.items():
            self.assertIs(errors.kind(_lib.STATUS[name]), cls)
