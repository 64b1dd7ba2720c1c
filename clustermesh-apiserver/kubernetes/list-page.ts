/** A page of a list as the API server sends it. */
import { KubernetesError } from './kubernetes-error.ts';

/** A part of a list. All pages of one list are of one moment. */
export interface ListPage {
  readonly items: readonly unknown[];
  /** Resource version of the list as a whole: where its watch begins. */
  readonly resourceVersion: string;
  /** How many items are left after this page, as far as the server told. */
  readonly remaining: number | undefined;
}

/** Takes a list's answer apart; `token` asks for the next page. Throws KubernetesError `unavailable` when it is no list. */
export function parseListPage(
  body: unknown,
  what: string,
): ListPage & { readonly token: string | undefined } {
  const list = body as
    | { items?: unknown; metadata?: Readonly<Record<string, unknown>> }
    | undefined;
  const items = list?.items ?? [];
  const { resourceVersion, continue: token, remainingItemCount } = list?.metadata ?? {};
  // A list without a version cannot be followed, and one without items may be somebody else's page.
  if (!Array.isArray(items) || typeof resourceVersion !== 'string' || resourceVersion === '') {
    throw new KubernetesError('unavailable', `${what}: the answer is not a list of Kubernetes`);
  }
  return {
    items,
    resourceVersion,
    remaining: typeof remainingItemCount === 'number' ? remainingItemCount : undefined,
    token: typeof token === 'string' && token !== '' ? token : undefined,
  };
}
