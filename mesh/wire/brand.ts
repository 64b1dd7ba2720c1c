declare const brand: unique symbol;

/** A value that went through its parser. `B` names the parser's kind, so that two branded strings do not mix. */
export type Brand<T, B extends string> = T & { readonly [brand]: B };
