/** Diagnostics as callers see them: places have lines and columns. */
import * as inner from "../support/diagnostic.ts";
import { type Source, lineStarts, positionOf } from "../support/span.ts";
import { renderDiagnostic } from "../syntax/render.ts";
import type { Diagnostic, Position, Result } from "./types.ts";

export function resultOf<T>(
  source: Source,
  value: T | null,
  diagnostics: readonly inner.Diagnostic[],
): Result<T> {
  const seen = located(source, diagnostics);
  return value === null || inner.hasErrors(diagnostics)
    ? { ok: false, value: null, diagnostics: seen }
    : { ok: true, value, diagnostics: seen };
}

function located(source: Source, diagnostics: readonly inner.Diagnostic[]): Diagnostic[] {
  const starts = lineStarts(source.text);
  const at = (offset: number): Position => ({ offset, ...positionOf(source.text, offset, starts) });
  return diagnostics.map(({ code, severity, message, labels, help }) => ({
    code,
    severity,
    message,
    help,
    labels: labels
      .filter(({ span }) => span.end > 0)
      .map(({ span, text }) => ({ text, from: at(span.start), to: at(span.end) })),
  }));
}

export interface RenderOptions {
  /** The text's name, as it was given to the function that found them. */
  readonly name?: string;
  /** With the colours of a terminal. */
  readonly color?: boolean;
}

/** Diagnostics of `text` as the command line shows them, each with its lines, marks and help. */
export function render(
  text: string,
  diagnostics: readonly Diagnostic[],
  { name = unnamed, color = false }: RenderOptions = {},
): string {
  const source = { name, text };
  return diagnostics
    .map(({ labels, ...rest }) => ({
      ...rest,
      labels: labels.map((label) => ({
        text: label.text,
        span: { start: label.from.offset, end: label.to.offset },
      })),
    }))
    .map((diagnostic) => `${renderDiagnostic(source, diagnostic, { color })}\n`)
    .join("");
}

export const unnamed = "input.lasp";
