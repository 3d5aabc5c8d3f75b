"""What the machine can do: sides to compare a kernel with, for `Worker`."""

from __future__ import annotations

from .common import ARRAYS, Case, Worker, variables

# One pass over the arrays that a decode step has to read, by all threads.
_READ = """
import numba

@numba.njit(parallel=True, fastmath=True)
def total(array, sums):
    size = array.shape[0] // sums.shape[0]
    for part in numba.prange(sums.shape[0]):
        rows = array[part * size : (part + 1) * size]
        found = array.dtype.type(0)
        for i in range(size):
            found += rows[i]
        sums[part] = found

sums = np.zeros(16 * numba.get_num_threads(), dtype)

def run():
    for array in arrays[1:]:  # not the queries
        total(array.reshape(-1), sums)
"""

# The multiplications and additions of the problem, with nothing between them: 12
# independent chains hide the latency of an FMA, and no operand leaves a register.
_PEAK = '''
import ctypes
import os
from concurrent.futures import ThreadPoolExecutor

import llvmlite.binding as llvm

llvm.initialize_native_target()
llvm.initialize_native_asmprinter()
features = llvm.get_host_cpu_features()
width = 64 if features.get("avx512f") else 32 if features.get("avx") else 16
bits = 8 * np.dtype(dtype).itemsize
lanes = 8 * width // bits
vector = f"<{lanes} x {'float' if bits == 32 else 'double'}>"
fma = f"@llvm.fma.v{lanes}f{bits}"
chains = range(12)
carried = "\\n".join(
    f"  %a{i} = phi {vector} [ %first, %entry ], [ %b{i}, %loop ]" for i in chains
)
products = "\\n".join(
    f"  %b{i} = call {vector} {fma}({vector} %a{i}, {vector} %x, {vector} %y)"
    for i in chains
)
sums = "\\n".join(
    f"  %s{i} = fadd {vector} {f'%s{i - 1}' if i > 1 else '%b0'}, %b{i}"
    for i in chains[1:]
)
source = f"""
declare {vector} {fma}({vector}, {vector}, {vector})
define void @work(i64 %count, ptr %at) {{
entry:
  %first = load {vector}, ptr %at, align {width}
  %at_x = getelementptr i8, ptr %at, i64 {width}
  %x = load {vector}, ptr %at_x, align {width}
  %at_y = getelementptr i8, ptr %at, i64 {2 * width}
  %y = load {vector}, ptr %at_y, align {width}
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %j, %loop ]
{carried}
{products}
  %j = add i64 %i, 1
  %more = icmp ult i64 %j, %count
  br i1 %more, label %loop, label %done
done:
{sums}
  store {vector} %s{len(chains) - 1}, ptr %at, align {width}
  ret void
}}
"""
machine = llvm.Target.from_default_triple().create_target_machine(
    cpu=llvm.get_host_cpu_name(), features=features.flatten(), opt=3
)
engine = llvm.create_mcjit_compiler(llvm.parse_assembly(source), machine)
engine.finalize_object()
work = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_void_p)(
    engine.get_function_address("work")
)
threads = num_threads or len(os.sched_getaffinity(0))
count = max(1, round(flops / (2 * lanes * len(chains) * threads)))
buffers = [np.zeros(3 * width + 64, np.uint8) for _ in range(threads)]
addresses = [-(-buffer.ctypes.data // 64) * 64 for buffer in buffers]
pool = ThreadPoolExecutor(threads)  # ctypes lets other threads run

def run():
    list(pool.map(work, [count] * threads, addresses))
'''


def plain_read(case: Case) -> Worker:
    """Start a worker that reads the keys, and values, of a case once."""
    return Worker(ARRAYS + _READ, variables(case))


def fma_peak(case: Case) -> Worker:
    """Start a worker that does the arithmetic of a case as fast as can be."""
    return Worker(ARRAYS + _PEAK, {**variables(case), "flops": case.flops})
