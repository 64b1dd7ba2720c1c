/** What the status of a ServiceExport says. */
import type { Condition } from './condition.ts';
import type { Conflict } from './conflicts.ts';

/** How an export stands. */
export type ExportVerdict =
  /** It is published. */
  | { readonly kind: 'exported'; readonly conflict: Conflict | undefined }
  /** Published, but a peer that counts has not been read yet, so that conflicts are not known; names of such peers. */
  | { readonly kind: 'waiting'; readonly peers: readonly string[] }
  /** There is no Service of its name. */
  | { readonly kind: 'no-service' }
  /** The Service cannot be exported. */
  | { readonly kind: 'invalid-type'; readonly type: string }
  /** The Service has something that cannot be read. */
  | { readonly kind: 'unusable'; readonly message: string }
  /** Its namespace is not global. */
  | { readonly kind: 'namespace-not-global' };

/** Conditions of an export: `Valid`, `Ready`, and `Conflict` where it is known. */
export function exportConditions(verdict: ExportVerdict): readonly Condition[] {
  switch (verdict.kind) {
    case 'exported':
      return [...GOOD, conflictCondition(verdict.conflict)];
    case 'waiting':
      return [
        ...GOOD,
        {
          type: 'Conflict',
          status: 'Unknown',
          reason: 'Pending',
          message: `waiting for the exports of ${verdict.peers.join(', ')}`,
        },
      ];
    case 'no-service':
      return invalid('NoService', 'there is no Service of this name in this namespace');
    case 'invalid-type':
      return invalid('InvalidServiceType', `a Service of type ${verdict.type} cannot be exported`);
    case 'unusable':
      return invalid('InvalidService', verdict.message);
    case 'namespace-not-global':
      return invalid(
        'NamespaceNotGlobal',
        'the namespace is not global: annotation clustermesh.cilium.io/global decides',
      );
    default:
      verdict satisfies never;
      return [];
  }
}

const GOOD: readonly Condition[] = [
  { type: 'Valid', status: 'True', reason: 'Valid', message: 'the Service can be exported' },
  { type: 'Ready', status: 'True', reason: 'Ready', message: 'the Service is exported' },
];

function conflictCondition(conflict: Conflict | undefined): Condition {
  return conflict === undefined
    ? { type: 'Conflict', status: 'False', reason: 'NoConflicts', message: 'all clusters agree' }
    : {
        type: 'Conflict',
        status: 'True',
        reason: conflict.reason,
        message: conflict.message,
      };
}

function invalid(reason: string, message: string): readonly Condition[] {
  return [
    { type: 'Valid', status: 'False', reason, message },
    {
      type: 'Ready',
      status: 'False',
      reason: 'Pending',
      message: 'the Service is not exported: see condition Valid',
    },
  ];
}
