/** What is wrong with an object, and the two ways to find out. */
import type { z } from 'zod';

/** An object that cannot be used; `field` is the path of what is wrong, empty for the object as a whole. */
export class ObjectError extends Error {
  readonly code: 'bad-object' | 'unknown-kind';
  readonly field: string;
  readonly retryable = false;

  constructor(code: 'bad-object' | 'unknown-kind', field: string, message: string) {
    super(message);
    this.name = 'ObjectError';
    this.code = code;
    this.field = field;
  }
}

/** What `schema` makes of `input`. Throws ObjectError naming the first field that is wrong. */
export function checkObject<T extends z.ZodType>(schema: T, input: unknown): z.infer<T> {
  const result = schema.safeParse(input);
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  const field = (issue?.path ?? []).map((part) =>
    typeof part === 'number' ? `[${part}]` : `.${String(part)}`,
  );
  const path = field.join('').replace(/^\./, '');
  throw new ObjectError(
    'bad-object',
    path,
    `${path === '' ? 'the object' : `field ${path}`}: ${issue?.message ?? 'not as expected'}`,
  );
}

/** Result of `parse`; what it throws becomes an ObjectError of that field. */
export function atField<T>(field: string, parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    throw new ObjectError(
      'bad-object',
      field,
      `field ${field}: ${error instanceof Error ? error.message : String(error)}`,
    );
  }
}
