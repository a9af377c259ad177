/** .lasp files for prettier: `prettier --plugin` and `laspc fmt` use the same printer. */
import type { AstPath, Doc, Parser, Plugin, Printer } from "prettier";
import { builders } from "prettier/doc";
import type { Span } from "../support/span.ts";
import type { BinaryOperator, ExprAst, NodeAst, ResultAst, TypeAst } from "./ast.ts";
import { type Comment, parseWithComments } from "./parse.ts";

const { group, hardline, ifBreak, indent, join, line, softline } = builders;

type Node = NodeAst & { comments?: unknown[] };
type CommentNode = Comment & { readonly type: "comment"; readonly value: string };

const locStart = (node: { span: Span }) => node.span.start;
const locEnd = (node: { span: Span }) => node.span.end;

const parser: Parser<Node> = {
  astFormat: "lasp",
  parse: (text) => {
    const { value, diagnostics } = parseWithComments({ name: "text", text });
    const [mistake] = diagnostics;
    if (mistake) {
      const { start } = mistake.labels[0]!.span;
      const before = text.slice(0, start).split("\n");
      const error = new SyntaxError(
        `${mistake.message} (${before.length}:${before.at(-1)!.length + 1})`,
      );
      throw error;
    }
    const comments = value!.comments.map((comment): CommentNode => ({
      ...comment,
      type: "comment",
      value: comment.text,
    }));
    return { ...value!.file, comments } as unknown as Node;
  },
  locStart,
  locEnd,
};

/** Binding strength, for the brackets that are needed. */
const strength: Readonly<Record<BinaryOperator, number>> = {
  "<": 1,
  "<=": 1,
  ">": 1,
  ">=": 1,
  "==": 1,
  "+": 2,
  "-": 2,
  "*": 3,
  "/": 3,
  "@": 3,
  "**": 5,
};

function strengthOf(expr: ExprAst): number {
  if (expr.kind === "binary") return strength[expr.operator];
  return expr.kind === "unary" ? 4 : 6;
}

type Print = (path: AstPath<Node>) => Doc;

const printer: Printer<Node> = {
  print: (path, _options, print) => printNode(path, print as Print),
  printComment: (path) => (path.node as unknown as CommentNode).value.trimEnd(),
  canAttachComment: (node) => {
    const { kind } = node as Partial<Node>;
    return kind !== undefined && kind !== "ident" && kind !== "dim" && kind !== "range";
  },
  isBlockComment: () => false,
};

function printNode(path: AstPath<Node>, print: Print): Doc {
  const { node } = path;
  /** Children by property; prettier needs the path to find their comments. */
  const each = (name: string): Doc[] => (path as AstPath).map(print as never, name);
  const one = (...names: string[]): Doc =>
    (path.call as (...args: unknown[]) => Doc)(print, ...names);
  switch (node.kind) {
    case "file": {
      const items = each("items");
      return items.length === 0 ? "" : [join([hardline, hardline], items), hardline];
    }
    case "attention": {
      const params = list("(", each("params"), ")", ifBreak(","));
      const head = group(["attention ", node.name.name, params, " -> ", one("result")]);
      return [head, " ", block(each("body"))];
    }
    case "def": {
      const head = `def ${node.name.name}(${node.params.map((param) => param.name).join(", ")})`;
      if (node.isShort) {
        return group([
          head,
          " = ",
          (path.call as (...a: unknown[]) => Doc)(print, "body", 0, "values", 0),
        ]);
      }
      return [head, " ", block(each("body"))];
    }
    case "param": {
      const per = node.per === null ? "" : node.per === "head" ? " per head" : " shared";
      const range = node.range ? ` in ${rangeText(node.range.text)}` : "";
      return [node.name.name, ": ", typeText(node.type), per, range];
    }
    case "result":
      return resultText(node);
    case "assign":
      return group([node.name.name, " = ", one("value")]);
    case "return":
    case "yield":
      return group([node.kind, " ", join(", ", each("values"))]);
    case "expr-stmt":
      return one("value");
    case "number":
      return node.text.toLowerCase();
    case "name":
      return node.name;
    case "unary":
      return ["-", bracketed(one("arg"), strengthOf(node.arg) < 4)];
    case "transpose":
      return [bracketed(one("arg"), strengthOf(node.arg) < 6), ".T"];
    case "binary": {
      const own = strength[node.operator];
      const isPower = node.operator === "**";
      // Mixed products and quotients read better with brackets kept: a / b * c is (a / b) * c.
      const left = bracketed(
        one("left"),
        isPower ? strengthOf(node.left) < 6 : leftNeedsBrackets(node.left, own, node.operator),
      );
      const right = bracketed(
        one("right"),
        isPower ? strengthOf(node.right) < 4 : strengthOf(node.right) <= own,
      );
      return group([left, ` ${node.operator}`, indent([line, right])]);
    }
    case "call":
      return [node.name.name, list("(", each("args"), ")")];
    case "recurrence": {
      const states = node.states.map(({ name, type }) => `${name.name}: ${typeText(type)}`);
      const reverse = node.reverse ? " reverse" : "";
      return [`recurrence ${states.join(", ")}${reverse} `, block(each("body"))];
    }
    case "type":
      return typeText(node);
    case "dim":
      return String(node.value);
    case "range":
      return rangeText(node.text);
    case "ident":
      return node.name;
  }
}

/** Of the same strength only the same operator goes on without brackets, to the left. */
function leftNeedsBrackets(left: ExprAst, own: number, operator: BinaryOperator): boolean {
  const inner = strengthOf(left);
  if (inner !== own) return inner < own;
  if (own === 1) return true;
  return own === 3 && left.kind === "binary" && left.operator !== operator;
}

function bracketed(text: Doc, needed: boolean): Doc {
  return needed ? ["(", text, ")"] : text;
}

/** `trailing`: behind the last item. */
function list(open: string, items: Doc[], close: string, trailing: Doc = ""): Doc {
  if (items.length === 0) return `${open}${close}`;
  return group([open, indent([softline, join([",", line], items)]), trailing, softline, close]);
}

function block(statements: Doc[]): Doc {
  if (statements.length === 0) return "{}";
  return ["{", indent([hardline, join(hardline, statements)]), hardline, "}"];
}

function typeText({ dtype, dims }: TypeAst): string {
  const prefix = dtype === null ? "" : dims === null ? `${dtype} ` : dtype;
  return `${prefix}${dims === null ? "scalar" : `[${dims.map((dim) => dim.value).join(", ")}]`}`;
}

function resultText({ items, isNamed }: ResultAst): string {
  if (!isNamed) return items[0] ? typeText(items[0].type) : "";
  return `(${items.map(({ name, type }) => `${name!.name}: ${typeText(type)}`).join(", ")})`;
}

/** "(-inf,0 ]" to "(-inf, 0]". */
function rangeText(text: string): string {
  const compact = text.replace(/\/\/[^\n]*/g, "").replace(/\s+/g, "");
  return compact.replace(",", ", ");
}

export const languages: Plugin["languages"] = [
  { name: "lasp", parsers: ["lasp"], extensions: [".lasp"], linguistLanguageId: 0 },
];
export const parsers: Plugin["parsers"] = { lasp: parser };
export const printers: Plugin["printers"] = { lasp: printer as Printer };
export default { languages, parsers, printers } satisfies Plugin;
