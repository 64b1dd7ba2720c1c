/** Whether nodes enrol in this cluster, and who is asked whose their tokens are. */
import type { Logger } from '../../mesh/runtime/log.ts';
import type { ConversionMode } from '../convert/published-sets.ts';
import type { KubernetesApi } from '../kubernetes/api.ts';
import type { NodeOffer } from './node-enrollment.ts';
import { createNodeTokenReview } from './node-enrollment-review.ts';
import type { FindNode } from './node-trust.ts';

/** `account`: the agents' service account; undefined: nobody enrols here at all. */
export function nodeOffer(
  source: {
    readonly mode: ConversionMode;
    /** Undefined without an API server. */
    readonly kubernetes:
      | { readonly api: KubernetesApi; readonly nodes: { readonly find: FindNode } }
      | undefined;
  },
  options: {
    readonly account: { readonly namespace: string | undefined; readonly name: string } | undefined;
    readonly logger: Logger;
  },
): NodeOffer {
  const { mode, kubernetes } = source;
  const { account, logger } = options;
  if (kubernetes === undefined) {
    return notOffered(
      'without Kubernetes nobody can say whose a token is: give nodes certificates by `clustermesh pki`',
    );
  }
  if (mode === 'cilium') {
    return notOffered('Cilium runs this cluster, and its agents are not ours');
  }
  if (account === undefined) return notOffered('it takes nobody in');
  const { api, nodes } = kubernetes;
  const serviceAccount = { namespace: account.namespace ?? api.namespace, name: account.name };
  const review = createNodeTokenReview({ api, serviceAccount, logger });
  return { kind: 'offered', review, find: nodes.find };
}

function notOffered(why: string): NodeOffer {
  return { kind: 'not-offered', reason: `nodes do not enrol in this cluster: ${why}` };
}
