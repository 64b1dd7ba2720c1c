/** A failure to read a kind, in words that name what to do. */
import { KubernetesError } from './kubernetes-error.ts';
import { apiVersionOf, type KubernetesResource, resourceName } from './resource.ts';

/** What a failure means for a kind. */
export interface Failure {
  readonly state: 'forbidden' | 'unauthorized' | 'absent' | 'failing';
  readonly reason: string;
}

/** What was tried, and the ClusterRole that allows it. */
export interface Attempted {
  readonly resource: KubernetesResource;
  readonly verb: 'list' | 'watch';
  /** Default: none is named. */
  readonly role?: string | undefined;
}

/** Explains a failure: which verb, which kind, and the command that helps. */
export function explainFailure(error: unknown, attempted: Attempted): Failure {
  const { resource, verb } = attempted;
  const name = resourceName(resource);
  if (error instanceof DefinitionGone) return { state: 'absent', reason: error.message };
  if (!(error instanceof KubernetesError)) {
    return { state: 'failing', reason: error instanceof Error ? error.message : String(error) };
  }
  switch (error.code) {
    case 'forbidden':
      return { state: 'forbidden', reason: explainForbidden(error, attempted) };
    case 'not-found':
      return {
        state: 'absent',
        reason:
          resource.group === '' || resource.group.endsWith('.k8s.io')
            ? `the API server does not serve ${name} in version ${resource.version}; look at: kubectl api-resources --api-group=${resource.group}`
            : `the API server does not know ${resource.kind} (${apiVersionOf(resource)}); its CustomResourceDefinition is missing, look at: kubectl get crd ${name}`,
      };
    case 'unauthorized':
      return {
        state: 'unauthorized',
        reason: `cannot ${verb} ${name}: the API server does not believe our credentials; renew the token or certificate of the kubeconfig or service account, it is read again by itself (${error.message})`,
      };
    default:
      return { state: 'failing', reason: `cannot ${verb} ${name}: ${error.message}` };
  }
}

/** The definition of a custom kind is gone, or on its way out, with all its objects. */
export class DefinitionGone extends Error {
  readonly code = 'definition-gone';
  readonly retryable = true;
  readonly definition: 'deleting' | 'missing';

  constructor(resource: KubernetesResource, state: 'deleting' | 'missing') {
    const name = resourceName(resource);
    const what = state === 'deleting' ? 'is being deleted' : 'is missing';
    super(
      `the CustomResourceDefinition ${name} ${what}, so there is no ${resource.kind}; what was read of them before stays published; look at: kubectl get crd ${name}`,
    );
    this.name = 'DefinitionGone';
    this.definition = state;
  }
}

function explainForbidden(error: KubernetesError, attempted: Attempted): string {
  const { resource, verb, role } = attempted;
  const name = resourceName(resource);
  const user = /User "([^"]+)"/.exec(error.message)?.[1];
  const who = user === undefined ? 'our user' : user;
  const parts = [`${who} may not ${verb} ${name}`];
  const subject = user === undefined ? '--user=<user>' : subjectOf(user);
  if (role !== undefined) {
    parts.push(
      `bind the ClusterRole ${role}: kubectl create clusterrolebinding ${role} --clusterrole=${role} ${subject}`,
    );
  }
  parts.push(
    `then check: kubectl auth can-i ${verb} ${name} --all-namespaces${user === undefined ? '' : ` --as=${user}`}`,
  );
  return parts.join('; ');
}

function subjectOf(user: string): string {
  const account = /^system:serviceaccount:([^:]+):([^:]+)$/.exec(user);
  return account === null ? `--user=${user}` : `--serviceaccount=${account[1]}:${account[2]}`;
}
