/**
 * The grammar, as chevrotain rules. Each attention and def is parsed on its own: a mistake costs its item, not the file.
 * The concrete tree stays in this room; `build-ast.ts` shapes it.
 */
import { CstParser } from "chevrotain";
import * as t from "./tokens.ts";

export class LaspParser extends CstParser {
  constructor() {
    super(t.allTokens, {
      recoveryEnabled: false,
      nodeLocationTracking: "onlyOffset",
      maxLookahead: 2,
      skipValidations: true,
    });
    this.performSelfAnalysis();
  }

  attention = this.RULE("attention", () => {
    this.CONSUME(t.Attention);
    this.CONSUME(t.Identifier);
    this.CONSUME(t.LParen);
    this.OPTION(() => {
      this.SUBRULE(this.param);
      this.MANY(() => {
        this.CONSUME(t.Comma);
        this.OPTION1(() => this.SUBRULE1(this.param));
      });
    });
    this.CONSUME(t.RParen);
    this.CONSUME(t.Arrow);
    this.SUBRULE(this.result);
    this.SUBRULE(this.block);
  });

  def = this.RULE("def", () => {
    this.CONSUME(t.Def);
    this.CONSUME(t.Identifier);
    this.CONSUME(t.LParen);
    this.MANY_SEP({ SEP: t.Comma, DEF: () => this.CONSUME1(t.Identifier) });
    this.CONSUME(t.RParen);
    this.OR([
      {
        ALT: () => {
          this.CONSUME(t.Equals);
          this.SUBRULE(this.expr);
        },
      },
      { ALT: () => this.SUBRULE(this.block) },
    ]);
  });

  param = this.RULE("param", () => {
    this.CONSUME(t.Identifier);
    this.CONSUME(t.Colon);
    this.SUBRULE(this.type);
    this.OPTION(() =>
      this.OR([
        {
          ALT: () => {
            this.CONSUME(t.Per);
            this.CONSUME1(t.Identifier);
          },
        },
        { ALT: () => this.CONSUME(t.Shared) },
      ]),
    );
    this.OPTION1(() => {
      this.CONSUME(t.In);
      this.SUBRULE(this.range);
    });
  });

  type = this.RULE("type", () => {
    this.OPTION(() => this.CONSUME(t.Identifier));
    this.OR([
      { ALT: () => this.CONSUME(t.Scalar) },
      {
        ALT: () => {
          this.CONSUME(t.LBracket);
          this.MANY_SEP({ SEP: t.Comma, DEF: () => this.SUBRULE(this.dim) });
          this.CONSUME(t.RBracket);
        },
      },
    ]);
  });

  dim = this.RULE("dim", () => {
    this.OR([
      { ALT: () => this.CONSUME(t.Identifier) },
      { ALT: () => this.CONSUME(t.NumberLiteral) },
    ]);
  });

  range = this.RULE("range", () => {
    this.OR([{ ALT: () => this.CONSUME(t.LBracket) }, { ALT: () => this.CONSUME(t.LParen) }]);
    this.SUBRULE(this.bound);
    this.CONSUME(t.Comma);
    this.SUBRULE1(this.bound);
    this.OR1([{ ALT: () => this.CONSUME(t.RBracket) }, { ALT: () => this.CONSUME(t.RParen) }]);
  });

  bound = this.RULE("bound", () => {
    this.OPTION(() => this.CONSUME(t.Minus));
    this.OR([
      { ALT: () => this.CONSUME(t.NumberLiteral) },
      { ALT: () => this.CONSUME(t.Identifier) },
    ]);
  });

  result = this.RULE("result", () => {
    this.OR([
      {
        ALT: () => {
          this.CONSUME(t.LParen);
          this.AT_LEAST_ONE_SEP({ SEP: t.Comma, DEF: () => this.SUBRULE(this.namedType) });
          this.CONSUME(t.RParen);
        },
      },
      { ALT: () => this.SUBRULE(this.type) },
    ]);
  });

  namedType = this.RULE("namedType", () => {
    this.CONSUME(t.Identifier);
    this.CONSUME(t.Colon);
    this.SUBRULE(this.type);
  });

  block = this.RULE("block", () => {
    this.CONSUME(t.LBrace);
    this.MANY(() => this.SUBRULE(this.statement));
    this.CONSUME(t.RBrace);
  });

  statement = this.RULE("statement", () => {
    this.OR([
      {
        ALT: () => {
          this.CONSUME(t.Identifier);
          this.CONSUME(t.Equals);
          this.SUBRULE(this.expr);
        },
      },
      {
        ALT: () => {
          this.OR1([{ ALT: () => this.CONSUME(t.Return) }, { ALT: () => this.CONSUME(t.Yield) }]);
          this.AT_LEAST_ONE_SEP({ SEP: t.Comma, DEF: () => this.SUBRULE1(this.expr) });
        },
      },
      { ALT: () => this.SUBRULE(this.recurrence) },
    ]);
  });

  recurrence = this.RULE("recurrence", () => {
    this.CONSUME(t.Recurrence);
    this.AT_LEAST_ONE_SEP({ SEP: t.Comma, DEF: () => this.SUBRULE(this.namedType) });
    this.OPTION(() => this.CONSUME(t.Reverse));
    this.SUBRULE(this.block);
  });

  expr = this.RULE("expr", () => {
    this.SUBRULE(this.sum);
    this.OPTION(() => {
      this.OR([
        { ALT: () => this.CONSUME(t.LessEqual) },
        { ALT: () => this.CONSUME(t.GreaterEqual) },
        { ALT: () => this.CONSUME(t.EqualEqual) },
        { ALT: () => this.CONSUME(t.Less) },
        { ALT: () => this.CONSUME(t.Greater) },
      ]);
      this.SUBRULE1(this.sum);
    });
  });

  sum = this.RULE("sum", () => {
    this.SUBRULE(this.product);
    this.MANY(() => {
      this.OR([{ ALT: () => this.CONSUME(t.Plus) }, { ALT: () => this.CONSUME(t.Minus) }]);
      this.SUBRULE1(this.product);
    });
  });

  product = this.RULE("product", () => {
    this.SUBRULE(this.unary);
    this.MANY(() => {
      this.OR([
        { ALT: () => this.CONSUME(t.Star) },
        { ALT: () => this.CONSUME(t.Slash) },
        { ALT: () => this.CONSUME(t.At) },
      ]);
      this.SUBRULE1(this.unary);
    });
  });

  unary = this.RULE("unary", () => {
    this.OR([
      {
        ALT: () => {
          this.CONSUME(t.Minus);
          this.SUBRULE(this.unary);
        },
      },
      { ALT: () => this.SUBRULE(this.power) },
    ]);
  });

  power = this.RULE("power", () => {
    this.SUBRULE(this.postfix);
    this.OPTION(() => {
      this.CONSUME(t.Power);
      this.SUBRULE(this.unary);
    });
  });

  postfix = this.RULE("postfix", () => {
    this.SUBRULE(this.atom);
    this.MANY(() => this.CONSUME(t.DotT));
  });

  atom = this.RULE("atom", () => {
    this.OR([
      { ALT: () => this.CONSUME(t.NumberLiteral) },
      {
        ALT: () => {
          this.CONSUME(t.Identifier);
          this.OPTION(() => {
            this.CONSUME(t.LParen);
            this.MANY_SEP({ SEP: t.Comma, DEF: () => this.SUBRULE(this.expr) });
            this.CONSUME(t.RParen);
          });
        },
      },
      {
        ALT: () => {
          this.CONSUME1(t.LParen);
          this.SUBRULE1(this.expr);
          this.CONSUME1(t.RParen);
        },
      },
      { ALT: () => this.SUBRULE(this.recurrence) },
    ]);
  });
}
