"""Writes the trampolines of the libnccl.so.2 replacement: for every public function of NCCL that is not wrapped, a jump to the
real one, found at its first call.

usage: trampolines.py OUT.S SYMBOLS.txt PRELOAD.map [nccl.h]

The functions are those of SYMBOLS.txt and of nccl.h, if one is given; those of PRELOAD.map are wrapped, and their p-names jump to
the wrappers. A trampoline changes no register and no stack, so it serves every signature, structures by value included.

SPDX-License-Identifier: Apache-2.0
"""
import re
import sys

HEAD = """\
/* Written by trampolines.py. */
    .section .note.GNU-stack,"",@progbits
    .text
"""

# A slot first holds the way to the resolver: it keeps every register that can carry an argument, asks for the real function and
# goes on there. 8 (return address) + 8 (index) + 8 * 8 registers + 128 of vectors keep the stack aligned.
RESOLVER = """\
    .type xp_trampoline_enter, @function
xp_trampoline_enter:
    .cfi_startproc
    .cfi_def_cfa_offset 16
    pushq %rax
    pushq %rdi
    pushq %rsi
    pushq %rdx
    pushq %rcx
    pushq %r8
    pushq %r9
    pushq %r10
    .cfi_adjust_cfa_offset 64
    subq $128, %rsp
    .cfi_adjust_cfa_offset 128
{save}
    movl 192(%rsp), %edi
    call xp_trampoline_resolve
    movq %rax, %r11
{restore}
    addq $128, %rsp
    .cfi_adjust_cfa_offset -128
    popq %r10
    popq %r9
    popq %r8
    popq %rcx
    popq %rdx
    popq %rsi
    popq %rdi
    popq %rax
    addq $8, %rsp
    .cfi_adjust_cfa_offset -72
    jmpq *%r11
    .cfi_endproc
    .size xp_trampoline_enter, . - xp_trampoline_enter
"""

JUMP = """\
    .globl {name}
    .type {name}, @function
{name}:
    endbr64
    jmpq *xp_trampoline_slots+{offset}(%rip)
    .size {name}, . - {name}
.Lfirst{index}:
    endbr64
    pushq ${index}
    jmp xp_trampoline_enter
"""

ALIAS = """\
    .globl p{name}
    .type p{name}, @function
p{name}:
    endbr64
    jmp {name}@PLT
    .size p{name}, . - p{name}
"""


def from_list(path):
    with open(path, encoding="utf-8") as f:
        return {line.strip() for line in f if line.strip() and not line.startswith("#")}


def from_header(path):
    """Names that are declared as functions."""
    with open(path, encoding="utf-8", errors="replace") as f:
        text = re.sub(r"/\*.*?\*/|//[^\n]*", " ", f.read(), flags=re.S)
    names = re.findall(r"^\s*[A-Za-z_][\w\s\*]*?[\s\*]p?(nccl[A-Z]\w*)\s*\(", text, flags=re.M)
    return {n for n in names if not re.search(r"#\s*define\s+p?%s\b" % n, text)}


def from_map(path):
    with open(path, encoding="utf-8") as f:
        text = re.sub(r"/\*.*?\*/", " ", f.read(), flags=re.S)
    return set(re.findall(r"\b(nccl\w+);", text))


def write(out, names, wrapped):
    jumps = sorted(n for n in names - wrapped) + sorted("p" + n for n in names - wrapped)
    moves = [(16 * i, i) for i in range(8)]
    out.write(HEAD)
    out.write(RESOLVER.format(save="\n".join(f"    movups %xmm{i}, {at}(%rsp)" for at, i in moves),
                              restore="\n".join(f"    movups {at}(%rsp), %xmm{i}" for at, i in moves)))
    for i, name in enumerate(jumps):
        out.write(JUMP.format(name=name, index=i, offset=8 * i))
    for name in sorted(wrapped):
        out.write(ALIAS.format(name=name))
    out.write("    .data\n    .balign 8\n    .globl xp_trampoline_slots\n    .hidden xp_trampoline_slots\nxp_trampoline_slots:\n")
    out.writelines(f"    .quad .Lfirst{i}\n" for i in range(len(jumps)))
    out.write("    .section .rodata\n")
    out.writelines(f".Lname{i}: .asciz \"{name}\"\n" for i, name in enumerate(jumps))
    out.write("    .section .data.rel.ro,\"aw\"\n    .balign 8\n    .globl xp_trampoline_names\n    .hidden xp_trampoline_names\n"
              "xp_trampoline_names:\n")
    out.writelines(f"    .quad .Lname{i}\n" for i in range(len(jumps)))


def main():
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    names = from_list(sys.argv[2])
    wrapped = from_map(sys.argv[3])
    if len(sys.argv) == 5:
        names |= from_header(sys.argv[4])
    with open(sys.argv[1], "w", encoding="utf-8") as out:
        write(out, names | wrapped, wrapped)


if __name__ == "__main__":
    main()
