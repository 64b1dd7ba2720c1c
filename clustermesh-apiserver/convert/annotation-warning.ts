/** What is wrong with an object's annotations, for whoever wrote them. */

/** An object that a warning is about. */
export interface AnnotatedObject {
  readonly kind: 'Service' | 'Namespace';
  /** Empty for a Namespace. */
  readonly namespace: string;
  readonly name: string;
  /** Empty where it comes from a file. */
  readonly uid: string;
}

/** Reasons of warnings, as Events have them. */
export type WarningReason =
  | 'UnknownAnnotationValue'
  | 'UnknownAnnotationName'
  /** Not an annotation, but a port of the Service that is a name, which it is on pods alone. */
  | 'NamedPortOnMachine';

/** An annotation whose value is none that it can have, or whose name is almost that of another one. */
export interface AnnotationWarning {
  readonly object: AnnotatedObject;
  readonly reason: WarningReason;
  readonly annotation: string;
  readonly value: string;
  /** What it counts as: `false`. */
  readonly countsAs: string;
  /** What it can be: `true or false`, or the name that may have been meant. */
  readonly expected: string;
}

/** The warning in words: `annotation service.cilium.io/global: "ture" counts as false, expected true or false`. */
export function describeWarning(warning: Omit<AnnotationWarning, 'object'>): string {
  const { reason, annotation, value, countsAs, expected } = warning;
  const what = reason === 'NamedPortOnMachine' ? 'field' : 'annotation';
  return `${what} ${annotation}: ${JSON.stringify(value)} counts as ${countsAs}, expected ${expected}`;
}
