/** Concrete tree to AST. The tree is whole: an item with a syntax error has none. */
import type { CstNode, IToken } from "chevrotain";
import type { Span } from "../support/span.ts";
import type {
  AttentionAst,
  BinaryOperator,
  DefAst,
  DimAst,
  ExprAst,
  FileAst,
  Ident,
  ParamAst,
  RangeAst,
  RecurrenceAst,
  ResultAst,
  StmtAst,
  TypeAst,
} from "./ast.ts";

/** Told about what the grammar lets through but the language does not have. */
export type Complain = (
  code: "bad-number" | "bad-dtype" | "bad-per" | "bad-range",
  span: Span,
  found: string,
  help?: string | null,
) => void;

/** What others call the dtypes that there are. */
const otherDtypes: Readonly<Record<string, string>> = {
  float32: "f32",
  float: "f32",
  fp32: "f32",
  float16: "f16",
  half: "f16",
  fp16: "f16",
  bfloat16: "bf16",
};

/** `whole`: the items that parsed, in order; `broken`: names of those that did not. */
export function buildFile(
  whole: readonly CstNode[],
  broken: readonly string[],
  text: string,
  complain: Complain,
): FileAst {
  const builder = new AstBuilder(text, complain);
  const items = whole.map((node) =>
    node.name === "def" ? builder.def(node) : builder.attention(node),
  );
  return { kind: "file", items, broken, span: { start: 0, end: text.length } };
}

class AstBuilder {
  private readonly text: string;
  private readonly complain: Complain;
  private readonly dtypes = new Set<string>();

  constructor(text: string, complain: Complain) {
    this.text = text;
    this.complain = complain;
  }

  attention(node: CstNode): AttentionAst {
    return {
      kind: "attention",
      name: this.ident(token(node, "Identifier")!),
      params: nodes(node, "param").map((param) => this.param(param)),
      result: this.result(child(node, "result")!),
      body: this.block(child(node, "block")!),
      span: spanOf(node),
    };
  }

  def(node: CstNode): DefAst {
    const [first, ...params] = tokens(node, "Identifier");
    const name = this.ident(first!);
    const short = child(node, "expr");
    const body: readonly StmtAst[] = short
      ? [{ kind: "return", values: [this.expr(short)], span: spanOf(short) }]
      : this.block(child(node, "block")!);
    const idents = params.map((param) => this.ident(param));
    return { kind: "def", name, params: idents, isShort: short !== null, body, span: spanOf(node) };
  }

  private param(node: CstNode): ParamAst {
    const [nameToken, perToken] = tokens(node, "Identifier");
    const range = child(node, "range");
    const per = token(node, "Shared") ? "shared" : token(node, "Per") ? "head" : null;
    if (per === "head" && perToken && perToken.image !== "head") {
      this.complain("bad-per", tokenSpan(perToken), perToken.image);
    }
    return {
      kind: "param",
      name: this.ident(nameToken!),
      type: this.type(child(node, "type")!),
      per,
      range: range ? this.range(range) : null,
      span: spanOf(node),
    };
  }

  private type(node: CstNode): TypeAst {
    const prefix = token(node, "Identifier");
    const known = ["f32", "f16", "bf16"] as const;
    const dtype = known.find((name) => name === prefix?.image) ?? null;
    if (prefix && !dtype) this.badDtype(prefix);
    const dims = token(node, "Scalar") ? null : nodes(node, "dim").map((dim) => this.dim(dim));
    return { kind: "type", dtype, dims, span: spanOf(node) };
  }

  /** Told once: whoever writes `float32` writes it everywhere. */
  private badDtype(prefix: IToken): void {
    const found = prefix.image;
    if (this.dtypes.has(found)) return;
    this.dtypes.add(found);
    const meant = Object.hasOwn(otherDtypes, found) ? otherDtypes[found]! : null;
    this.complain("bad-dtype", tokenSpan(prefix), found, meant && `write \`${meant}\``);
  }

  private dim(node: CstNode): DimAst {
    const name = token(node, "Identifier");
    const number = token(node, "NumberLiteral");
    const span = spanOf(node);
    if (name) return { kind: "dim", value: name.image, span };
    const value = Number(number?.image ?? "1");
    if (!Number.isInteger(value) || value < 1)
      this.complain("bad-number", span, number?.image ?? "");
    return { kind: "dim", value, span };
  }

  private range(node: CstNode): RangeAst {
    const [low, high] = nodes(node, "bound").map((bound) => this.bound(bound));
    const span = spanOf(node);
    const range: RangeAst = {
      kind: "range",
      low: low ?? -Infinity,
      high: high ?? Infinity,
      lowOpen: token(node, "LParen") !== null,
      highOpen: token(node, "RParen") !== null,
      text: this.text.slice(span.start, span.end),
      span,
    };
    const empty =
      range.low > range.high || (range.low === range.high && (range.lowOpen || range.highOpen));
    if (empty) this.complain("bad-range", span, range.text);
    return range;
  }

  private bound(node: CstNode): number {
    const sign = token(node, "Minus") ? -1 : 1;
    const name = token(node, "Identifier");
    if (name && name.image !== "inf") this.complain("bad-range", tokenSpan(name), name.image);
    return sign * (name ? Infinity : Number(token(node, "NumberLiteral")?.image ?? "0"));
  }

  private result(node: CstNode): ResultAst {
    const single = child(node, "type");
    const span = spanOf(node);
    if (single) {
      return {
        kind: "result",
        items: [{ name: null, type: this.type(single) }],
        isNamed: false,
        span,
      };
    }
    return { kind: "result", items: this.namedTypes(node), isNamed: true, span };
  }

  private namedTypes(node: CstNode): { name: Ident; type: TypeAst }[] {
    return nodes(node, "namedType").map((named) => ({
      name: this.ident(token(named, "Identifier")!),
      type: this.type(child(named, "type")!),
    }));
  }

  private block(node: CstNode): readonly StmtAst[] {
    return nodes(node, "statement").map((statement) => this.statement(statement));
  }

  private statement(node: CstNode): StmtAst {
    const span = spanOf(node);
    const name = token(node, "Identifier");
    const values = nodes(node, "expr").map((expr) => this.expr(expr));
    const recurrence = child(node, "recurrence");
    if (recurrence) return { kind: "expr-stmt", value: this.recurrence(recurrence), span };
    if (name) return { kind: "assign", name: this.ident(name), value: values[0]!, span };
    return { kind: token(node, "Yield") ? "yield" : "return", values, span };
  }

  private recurrence(node: CstNode): RecurrenceAst {
    return {
      kind: "recurrence",
      states: this.namedTypes(node),
      reverse: token(node, "Reverse") !== null,
      body: this.block(child(node, "block")!),
      span: spanOf(node),
    };
  }

  private expr(node: CstNode): ExprAst {
    return this.chain(
      node,
      "sum",
      ["LessEqual", "GreaterEqual", "EqualEqual", "Less", "Greater"],
      (sum) =>
        this.chain(sum, "product", ["Plus", "Minus"], (product) =>
          this.chain(product, "unary", ["Star", "Slash", "At"], (unary) => this.unary(unary)),
        ),
    );
  }

  /** operand (operator operand)*, to the left. */
  private chain(
    node: CstNode,
    operand: string,
    operators: readonly string[],
    build: (node: CstNode) => ExprAst,
  ): ExprAst {
    const operands = nodes(node, operand).map(build);
    const between = inTextOrder(operators.flatMap((name) => tokens(node, name)));
    return operands.slice(1).reduce(
      (left, right, i): ExprAst => ({
        kind: "binary",
        operator: between[i]!.image as BinaryOperator,
        left,
        right,
        span: { start: left.span.start, end: right.span.end },
      }),
      operands[0]!,
    );
  }

  private unary(node: CstNode): ExprAst {
    const inner = child(node, "unary");
    if (inner) return { kind: "unary", arg: this.unary(inner), span: spanOf(node) };
    return this.power(child(node, "power")!);
  }

  private power(node: CstNode): ExprAst {
    const exponent = child(node, "unary");
    const left = this.postfix(child(node, "postfix")!);
    if (!exponent) return left;
    return {
      kind: "binary",
      operator: "**",
      left,
      right: this.unary(exponent),
      span: spanOf(node),
    };
  }

  private postfix(node: CstNode): ExprAst {
    const atom = this.atom(child(node, "atom")!);
    return tokens(node, "DotT").reduce<ExprAst>(
      (arg, dot) => ({
        kind: "transpose",
        arg,
        span: { start: arg.span.start, end: tokenSpan(dot).end },
      }),
      atom,
    );
  }

  private atom(node: CstNode): ExprAst {
    const span = spanOf(node);
    const number = token(node, "NumberLiteral");
    if (number) return { kind: "number", value: Number(number.image), text: number.image, span };
    const recurrence = child(node, "recurrence");
    if (recurrence) return this.recurrence(recurrence);
    const args = nodes(node, "expr").map((expr) => this.expr(expr));
    const found = token(node, "Identifier");
    if (!found) return { ...args[0]!, span };
    const name = this.ident(found);
    if (token(node, "LParen")) return { kind: "call", name, args, span };
    return { kind: "name", name: name.name, span };
  }

  private ident(found: IToken): Ident {
    return { kind: "ident", name: found.image, span: tokenSpan(found) };
  }
}

function nodes(node: CstNode, name: string): CstNode[] {
  return (node.children[name] ?? []) as CstNode[];
}
function child(node: CstNode, name: string): CstNode | null {
  return nodes(node, name)[0] ?? null;
}
function tokens(node: CstNode, name: string): IToken[] {
  return (node.children[name] ?? []) as IToken[];
}
function token(node: CstNode, name: string): IToken | null {
  return tokens(node, name)[0] ?? null;
}
function tokenSpan(found: IToken): Span {
  const start = Number.isNaN(found.startOffset) ? 0 : found.startOffset;
  return { start, end: start + found.image.length };
}
function spanOf(node: CstNode): Span {
  const { startOffset, endOffset } = node.location ?? { startOffset: 0, endOffset: 0 };
  const start = Number.isNaN(startOffset) ? 0 : startOffset;
  const end = endOffset === undefined || Number.isNaN(endOffset) ? start : endOffset + 1;
  return { start, end };
}
function inTextOrder(list: IToken[]): IToken[] {
  return list.sort((a, b) => a.startOffset - b.startOffset);
}
