/** Selectors of Cilium's kinds with what they leave unsaid (`pkg/k8s/apis/cilium.io/utils`). */
import {
  CLUSTER_LABEL,
  NAMESPACE_LABEL,
  NAMESPACE_LABELS_PREFIX,
} from '../../mesh/wire/identity.ts';
import type { ParseContext } from './parse-context.ts';
import { asksFor, requireLabel, requirePresence, type Selector } from './selector.ts';

/** Adds what a selector of other sides leaves unsaid: the namespace, and the own cluster. Not to reserved identities. */
export function limitPeer(selector: Selector, context: ParseContext): Selector {
  if (isReserved(selector)) return selector;
  const limited = [...selector];
  if (!asksFor(selector, NAMESPACE_LABEL, 'k8s')) {
    const namesNamespace = selector.some(
      ({ source, key }) =>
        (source === 'k8s' || source === 'any') && key.startsWith(NAMESPACE_LABELS_PREFIX),
    );
    // Without a namespace label nothing is an endpoint.
    limited.push(
      context.namespace === '' || namesNamespace
        ? requirePresence('k8s', NAMESPACE_LABEL)
        : requireLabel('k8s', NAMESPACE_LABEL, context.namespace),
    );
  }
  return limitCluster(limited, context);
}

/** Adds the own cluster where a selector names none and is to mean that. */
export function limitCluster(selector: Selector, context: ParseContext): Selector {
  if (!context.defaultLocalCluster || asksFor(selector, CLUSTER_LABEL, 'k8s')) return selector;
  return [...selector, requireLabel('k8s', CLUSTER_LABEL, context.clusterName)];
}

/** Pods of a subject: of the policy's namespace, or of every one. */
export function limitSubject(selector: Selector, namespace: string): Selector {
  return namespace === ''
    ? [...selector, requirePresence('k8s', NAMESPACE_LABEL)]
    : [...selector, requireLabel('k8s', NAMESPACE_LABEL, namespace)];
}

/** Whether a selector asks for a reserved label, which no pod has. */
export function isReserved(selector: Selector): boolean {
  return selector.some(({ source }) => source === 'reserved');
}
