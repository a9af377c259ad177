/** The files that every generated package has, as text. */
import binding from "./package/binding.py";
import checks from "./package/checks.py";
import exchange from "./package/exchange.py";
import group from "./package/group.py";
import kernels from "./package/kernels.py";
import kept from "./package/kept.py";
import operators from "./package/operators.py";
import parts from "./package/parts.py";
import plain from "./package/plain.py";
import segments from "./package/segments.py";
import signature from "./package/signature.py";
import stages from "./package/stages.py";
import tensorOps from "./package/tensor_ops.py";
import conftest from "./package/tests/conftest.py";
import groupRanks from "./package/tests/group_ranks.py";
import load from "./package/tests/load.py";
import testErrors from "./package/tests/test_errors.py";
import testGroup from "./package/tests/test_group.py";
import testKept from "./package/tests/test_kept.py";
import testOperators from "./package/tests/test_operators.py";
import testValues from "./package/tests/test_values.py";

export const modules: Readonly<Record<string, string>> = {
  "binding.py": binding,
  "checks.py": checks,
  "exchange.py": exchange,
  "group.py": group,
  "kernels.py": kernels,
  "kept.py": kept,
  "operators.py": operators,
  "parts.py": parts,
  "plain.py": plain,
  "segments.py": segments,
  "signature.py": signature,
  "stages.py": stages,
  "tensor_ops.py": tensorOps,
};

export const tests: Readonly<Record<string, string>> = {
  "conftest.py": conftest,
  "group_ranks.py": groupRanks,
  "load.py": load,
  "test_errors.py": testErrors,
  "test_group.py": testGroup,
  "test_kept.py": testKept,
  "test_operators.py": testOperators,
  "test_values.py": testValues,
};
