/**
 * The AST: the text, shaped. Untyped; every node has its span; prints back to source.
 *
 *   file      = (attention | def)*
 *   attention = "attention" name "(" param,* ")" "->" result "{" stmt* "}"
 *   def       = "def" name "(" name,* ")" ("=" expr | "{" stmt* "}")
 *   param     = name ":" type ("per" "head" | "shared")? ("in" range)?
 *   type      = dtype? "[" (name | number),* "]" | dtype? "scalar"
 *   result    = type | "(" (name ":" type),* ")"
 *   stmt      = name "=" expr | "return" expr,* | "yield" expr,* | recurrence
 *   expr      = number | name | call | -expr | expr op expr | expr ".T" | recurrence
 */
import type { Span } from "../support/span.ts";
import type { Dtype } from "../tensor/ir.ts";

export interface Ident {
  readonly kind: "ident";
  readonly name: string;
  readonly span: Span;
}

export interface FileAst {
  readonly kind: "file";
  readonly items: readonly (AttentionAst | DefAst)[];
  /** Names of attentions and defs that have a syntax error. */
  readonly broken: readonly string[];
  readonly span: Span;
}
export interface AttentionAst {
  readonly kind: "attention";
  readonly name: Ident;
  readonly params: readonly ParamAst[];
  readonly result: ResultAst;
  readonly body: readonly StmtAst[];
  readonly span: Span;
}
export interface DefAst {
  readonly kind: "def";
  readonly name: Ident;
  readonly params: readonly Ident[];
  /** `def f(x) = expr` is a body of one return; `isShort` remembers how it was written. */
  readonly isShort: boolean;
  readonly body: readonly StmtAst[];
  readonly span: Span;
}
export interface ParamAst {
  readonly kind: "param";
  readonly name: Ident;
  readonly type: TypeAst;
  readonly per: "head" | "shared" | null;
  readonly range: RangeAst | null;
  readonly span: Span;
}
export interface TypeAst {
  readonly kind: "type";
  readonly dtype: Dtype | null;
  /** null: `scalar`. */
  readonly dims: readonly DimAst[] | null;
  readonly span: Span;
}
export interface DimAst {
  readonly kind: "dim";
  /** A name, or a fixed size. */
  readonly value: string | number;
  readonly span: Span;
}
export interface RangeAst {
  readonly kind: "range";
  readonly low: number;
  readonly high: number;
  readonly lowOpen: boolean;
  readonly highOpen: boolean;
  readonly text: string;
  readonly span: Span;
}
export interface ResultAst {
  readonly kind: "result";
  /** One unnamed type, or several named ones. */
  readonly items: readonly { readonly name: Ident | null; readonly type: TypeAst }[];
  readonly isNamed: boolean;
  readonly span: Span;
}

export interface AssignAst {
  readonly kind: "assign";
  readonly name: Ident;
  readonly value: ExprAst;
  readonly span: Span;
}
export interface ReturnAst {
  readonly kind: "return" | "yield";
  readonly values: readonly ExprAst[];
  readonly span: Span;
}
/** A recurrence whose result is the attention's. */
export interface ExprStmtAst {
  readonly kind: "expr-stmt";
  readonly value: ExprAst;
  readonly span: Span;
}
export type StmtAst = AssignAst | ReturnAst | ExprStmtAst;

export const binaryOperators = ["+", "-", "*", "/", "@", "**", "<", "<=", ">", ">=", "=="] as const;
export type BinaryOperator = (typeof binaryOperators)[number];

export interface NumberAst {
  readonly kind: "number";
  readonly value: number;
  /** As written: 1e-5 stays 1e-5. */
  readonly text: string;
  readonly span: Span;
}
export interface NameAst {
  readonly kind: "name";
  readonly name: string;
  readonly span: Span;
}
export interface UnaryAst {
  readonly kind: "unary";
  readonly arg: ExprAst;
  readonly span: Span;
}
export interface BinaryAst {
  readonly kind: "binary";
  readonly operator: BinaryOperator;
  readonly left: ExprAst;
  readonly right: ExprAst;
  readonly span: Span;
}
export interface CallAst {
  readonly kind: "call";
  readonly name: Ident;
  readonly args: readonly ExprAst[];
  readonly span: Span;
}
export interface TransposeAst {
  readonly kind: "transpose";
  readonly arg: ExprAst;
  readonly span: Span;
}
export interface RecurrenceAst {
  readonly kind: "recurrence";
  readonly states: readonly {
    readonly name: Ident;
    readonly type: TypeAst;
  }[];
  readonly reverse: boolean;
  readonly body: readonly StmtAst[];
  readonly span: Span;
}
export type ExprAst =
  NumberAst | NameAst | UnaryAst | BinaryAst | CallAst | TransposeAst | RecurrenceAst;

export type NodeAst =
  | FileAst
  | AttentionAst
  | DefAst
  | ParamAst
  | TypeAst
  | DimAst
  | RangeAst
  | ResultAst
  | StmtAst
  | ExprAst
  | Ident;
