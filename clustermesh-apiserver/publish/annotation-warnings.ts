/** Tells what is wrong with an object's annotations once, and again only when that changes. */
import type { Logger } from '../../mesh/runtime/log.ts';
import {
  type AnnotatedObject,
  type AnnotationWarning,
  describeWarning,
} from '../convert/annotation-warning.ts';

/** What is wrong with annotations now. */
export interface AnnotationWarnings {
  /** Takes everything that is wrong with an object now; undefined for nothing. */
  take(object: AnnotatedObject, warnings: readonly AnnotationWarning[] | undefined): void;
  /** Every warning that stands. */
  readonly standing: readonly AnnotationWarning[];
}

/** Makes a book of warnings; each new one is logged, and given to `onWarning`. */
export function createAnnotationWarnings(options: {
  readonly logger: Logger;
  readonly onWarning?: ((warning: AnnotationWarning) => void) | undefined;
}): AnnotationWarnings {
  const told = new Map<string, ReadonlyMap<string, AnnotationWarning>>();
  return {
    take(object, warnings = []) {
      const id = `${object.kind} ${object.namespace}/${object.name} ${object.uid}`;
      const before = told.get(id);
      const now = new Map(warnings.map((warning) => [describeWarning(warning), warning]));
      if (now.size === 0) told.delete(id);
      else told.set(id, now);
      for (const [text, warning] of now) {
        if (before?.has(text) === true) continue;
        const { kind, namespace, name } = object;
        options.logger.warn(
          { kind, namespace, name, warning: text },
          'an annotation is not as expected',
        );
        options.onWarning?.(warning);
      }
    },
    get standing() {
      return [...told.values()].flatMap((warnings) => [...warnings.values()]);
    },
  };
}
