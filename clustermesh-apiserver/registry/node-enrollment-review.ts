/**
 * Whose a service account's token is: the API server is asked each time, so that a token counts no longer than its pod is there.
 * What it answers is judged here, whatever the caller has said of itself.
 */
import { z } from 'zod';
import type { Logger } from '../../mesh/runtime/log.ts';
import type { KubernetesApi } from '../kubernetes/api.ts';
import { KubernetesError } from '../kubernetes/kubernetes-error.ts';
import { apiVersionOf, RESOURCES, resourcePath } from '../kubernetes/resource.ts';
import { nodeNameOf } from './node-facts.ts';

/** Whom tokens have to be made for: with one of another audience nobody enrols, and with one of this nobody does anything else. */
export const NODE_TOKEN_AUDIENCE = 'isthmus-registry';

const REVIEW_TIMEOUT_MS = 5000;
const QUESTION = { what: 'whose a token is', right: 'create tokenreviews' };
const MAX_ERROR_LENGTH = 300;
/** Where an API server tells what a token is bound to (`k8s.io/kubernetes/pkg/serviceaccount`, from 1.30 on unless switched off). */
const NODE_NAME = 'authentication.kubernetes.io/node-name';
const POD_NAME = 'authentication.kubernetes.io/pod-name';

/** A service account. */
export interface ServiceAccountName {
  readonly namespace: string;
  readonly name: string;
}

/** Whose a token is. Reasons are for whoever sent it. */
export type TokenVerdict =
  | { readonly kind: 'node'; readonly node: string; readonly pod: string }
  | { readonly kind: 'refused'; readonly reason: string }
  | { readonly kind: 'unavailable'; readonly reason: string };

/** Finds out whose a token is. */
export type ReviewNodeToken = (token: string, signal: AbortSignal) => Promise<TokenVerdict>;

const reviewSchema = z.object({
  status: z.object({
    authenticated: z.boolean().default(false),
    audiences: z.array(z.string()).default([]),
    error: z.string().default(''),
    user: z
      .object({
        username: z.string().default(''),
        extra: z.record(z.string(), z.array(z.string())).default({}),
      })
      .prefault({}),
  }),
});

/** Makes a reviewer that takes tokens of one service account alone. */
export function createNodeTokenReview(options: {
  readonly api: Pick<KubernetesApi, 'request'>;
  readonly serviceAccount: ServiceAccountName;
  readonly logger: Logger;
}): ReviewNodeToken {
  const { api, serviceAccount, logger } = options;
  const resource = RESOURCES.tokenReviews;
  return async (token, signal) => {
    try {
      const { body } = await api.request({
        method: 'POST',
        path: resourcePath(resource),
        body: {
          apiVersion: apiVersionOf(resource),
          kind: resource.kind,
          spec: { token, audiences: [NODE_TOKEN_AUDIENCE] },
        },
        timeoutMs: REVIEW_TIMEOUT_MS,
        signal,
      });
      return judgeReview(body, serviceAccount);
    } catch (error) {
      if (!(error instanceof KubernetesError)) throw error;
      logger.warn({ err: error }, 'the API server cannot be asked whose a token is');
      return { kind: 'unavailable', reason: whyUnasked(error, QUESTION) };
    }
  };
}

/** What an answered TokenReview amounts to. Pure. */
export function judgeReview(body: unknown, serviceAccount: ServiceAccountName): TokenVerdict {
  const result = reviewSchema.safeParse(body);
  if (!result.success) {
    return { kind: 'unavailable', reason: 'the API server has answered with no TokenReview' };
  }
  const { authenticated, audiences, error, user } = result.data.status;
  if (!authenticated) {
    const why = error === '' ? '' : ` (${error.slice(0, MAX_ERROR_LENGTH)})`;
    return refused(
      `the API server does not take the token${why}: it has expired, its pod is gone, it is of another cluster, or it was not made for the audience ${NODE_TOKEN_AUDIENCE}`,
    );
  }
  // Who checks no audiences names none, and would take any token there is.
  if (!audiences.includes(NODE_TOKEN_AUDIENCE)) {
    return refused(`the token is not for the audience ${NODE_TOKEN_AUDIENCE}`);
  }
  const expected = `system:serviceaccount:${serviceAccount.namespace}:${serviceAccount.name}`;
  if (user.username !== expected) {
    return refused(
      `the token is of ${user.username}, expected ${expected}: see --enrollment-service-account of clustermesh-apiserver`,
    );
  }
  const [pod] = user.extra[POD_NAME] ?? [];
  const [node] = user.extra[NODE_NAME] ?? [];
  if (pod === undefined) {
    return refused('the token is bound to no pod: use one that is projected into the pod');
  }
  if (node === undefined) {
    return refused(
      `the API server does not say on which node pod ${pod} is: the pod has to run on one, and Kubernetes has to be 1.30 or newer with its feature ServiceAccountTokenPodNodeInfo`,
    );
  }
  if (nodeNameOf(`node-${node}`) === undefined) {
    return refused(`${JSON.stringify(node)} cannot be the name of a node`);
  }
  return { kind: 'node', node, pod };
}

function refused(reason: string): TokenVerdict {
  return { kind: 'refused', reason };
}

/**
 * Why the API server was not asked, for strangers, who need not know where it is: `what` it was to be asked, and the `right` that
 * this takes.
 */
export function whyUnasked(
  { code }: KubernetesError,
  { what, right }: { readonly what: string; readonly right: string },
): string {
  switch (code) {
    case 'forbidden':
      return `this clustermesh-apiserver may not ask the API server ${what}: give its service account the right to ${right}`;
    case 'unauthorized':
    case 'configuration':
      return `this clustermesh-apiserver cannot ask the API server ${what}: its credentials are not taken, its log says more`;
    default:
      return `this clustermesh-apiserver cannot ask the API server ${what} (${code}): try again`;
  }
}
