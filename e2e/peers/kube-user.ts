/** Users of a test cluster with RBAC rules of their own: service accounts, or holders of a client certificate. */

import type { TempDir } from '../../mesh/testing/temp-dir.ts';
import type { TestAuthority } from '../../mesh/testing/test-certificates.ts';
import { writePrivateFile } from '../../pki/layout.ts';
import { waitFor } from '../lab/wait-for.ts';
import { expectOk, type KubeRequester } from './kube-request.ts';
import { type KubeCredential, type KubeEndpoint, writeKubeconfig } from './kubeconfig.ts';

/** A rule of a ClusterRole. */
export interface KubeRule {
  readonly apiGroups?: readonly string[];
  readonly resources?: readonly string[];
  readonly resourceNames?: readonly string[];
  readonly nonResourceURLs?: readonly string[];
  readonly verbs: readonly string[];
}

/** A user. The files live as long as the cluster. */
export interface KubeUser {
  /** What RBAC calls it. */
  readonly userName: string;
  /** Kubeconfig that leads to the API server itself. */
  readonly kubeconfig: string;
  /** File of the token in use; undefined for holders of a certificate. */
  readonly tokenFile: string | undefined;
  /** Another kubeconfig of the same user, through a proxy: its file is named for `name`. */
  kubeconfigAt(name: string, endpoint: KubeEndpoint): Promise<string>;
  /** Replaces the rules of its ClusterRole; resolves when the API server judges by them. */
  grant(rules: readonly KubeRule[]): Promise<void>;
  /** Takes all rules away; resolves when the API server refuses. */
  revoke(): Promise<void>;
  /**
   * Writes a new token into the file, which is replaced at once. With `revokeOld` the one before is refused soon: the
   * API server remembers tokens that it has checked for 10 s.
   */
  rotateToken(options?: { readonly revokeOld?: boolean }): Promise<void>;
}

/** What users are made with. */
export interface KubeUsersContext {
  readonly dir: TempDir;
  readonly endpoint: KubeEndpoint;
  readonly authority: TestAuthority;
  readonly requester: KubeRequester;
}

const RBAC = '/apis/rbac.authorization.k8s.io/v1';
/** Namespace of the service accounts that tests ask for. */
export const USERS_NAMESPACE = 'test-users';

/** Makes a service account with a token; `namespace` is made, too. Whoever is there already is taken. */
export async function createServiceAccountUser(
  context: KubeUsersContext,
  { namespace, name }: { readonly namespace: string; readonly name: string },
): Promise<KubeUser> {
  const { dir, requester } = context;
  const conflict = { also: [409] };
  const metadata = { name };
  const inNamespace = `/api/v1/namespaces/${namespace}`;
  await expectOk(requester, ['POST', '/api/v1/namespaces'], {
    body: { metadata: { name: namespace } },
    ...conflict,
  });
  await expectOk(requester, ['POST', `${inNamespace}/serviceaccounts`], {
    body: { metadata },
    ...conflict,
  });
  const tokenFile = dir.file(`${namespace}.${name}.token`);
  let serial = 0;
  let secret: string | undefined;
  const rotateToken = async ({ revokeOld = false } = {}): Promise<void> => {
    const old = secret;
    serial += 1;
    secret = `${name}-token-${serial}`;
    // A token that is bound to an object is good as long as that is there.
    const body = await expectOk(requester, ['POST', `${inNamespace}/secrets`], {
      body: { metadata: { name: secret } },
      also: [409],
    });
    const uid = await uidOf(requester, `${inNamespace}/secrets/${secret}`, body);
    const answer = await expectOk(
      requester,
      ['POST', `${inNamespace}/serviceaccounts/${name}/token`],
      {
        body: { spec: { boundObjectRef: { kind: 'Secret', apiVersion: 'v1', name: secret, uid } } },
      },
    );
    const { status } = answer as { status: { token: string } };
    await writePrivateFile(tokenFile, status.token);
    if (revokeOld && old !== undefined) {
      await expectOk(requester, ['DELETE', `${inNamespace}/secrets/${old}`]);
    }
  };
  await rotateToken();
  return userOf(context, {
    userName: `system:serviceaccount:${namespace}:${name}`,
    fileName: `${namespace}.${name}`,
    role: `test-user:${namespace}:${name}`,
    subject: { kind: 'ServiceAccount', name, namespace },
    credential: { kind: 'token', tokenFile },
    rotateToken,
  });
}

/** Makes a user that proves who it is by a client certificate. */
export async function createCertificateUser(
  context: KubeUsersContext,
  name: string,
): Promise<KubeUser> {
  const { certFile, keyFile } = await context.authority.issue(name);
  return userOf(context, {
    userName: name,
    fileName: name,
    role: `test-user:${name}`,
    subject: { kind: 'User', apiGroup: 'rbac.authorization.k8s.io', name },
    credential: { kind: 'certificate', certFile, keyFile },
    rotateToken: async () => {
      throw new Error(`cannot rotate the token of ${name}: it has a certificate`);
    },
  });
}

async function userOf(
  context: KubeUsersContext,
  as: {
    readonly userName: string;
    readonly fileName: string;
    readonly role: string;
    readonly subject: Readonly<Record<string, string>>;
    readonly credential: KubeCredential;
    readonly rotateToken: KubeUser['rotateToken'];
  },
): Promise<KubeUser> {
  const { dir, endpoint, requester } = context;
  const { userName, fileName, role, subject, credential } = as;
  let granted: readonly KubeRule[] = [];
  const setRules = async (rules: readonly KubeRule[]): Promise<void> => {
    const body = { metadata: { name: role }, rules };
    const path = `${RBAC}/clusterroles`;
    const { status } = await requester.send('GET', `${path}/${role}`);
    if (status === 200) {
      await expectOk(requester, ['PUT', `${path}/${role}`], { body });
      return;
    }
    await expectOk(requester, ['POST', path], { body });
    await expectOk(requester, ['POST', `${RBAC}/clusterrolebindings`], {
      body: {
        metadata: { name: role },
        roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'ClusterRole', name: role },
        subjects: [subject],
      },
    });
  };
  const untilJudged = (rule: KubeRule | undefined, allowed: boolean): Promise<unknown> =>
    rule === undefined
      ? Promise.resolve()
      : waitFor(
          `the API server to ${allowed ? 'allow' : 'refuse'} ${userName} what ${JSON.stringify(rule)} says`,
          async () => (await mayUse(requester, userName, rule)) === allowed,
        );
  return {
    userName,
    kubeconfig: await writeKubeconfig(dir.file(`${fileName}.kubeconfig`), endpoint, credential),
    tokenFile: credential.kind === 'token' ? credential.tokenFile : undefined,
    kubeconfigAt: (name, at) =>
      writeKubeconfig(dir.file(`${fileName}.${name}.kubeconfig`), at, credential),
    grant: async (rules) => {
      await setRules(rules);
      granted = rules;
      await untilJudged(rules.at(-1), true);
    },
    revoke: async () => {
      await setRules([]);
      await untilJudged(granted.at(-1), false);
      granted = [];
    },
    rotateToken: as.rotateToken,
  };
}

/** Asks the API server itself, whose answer may be a moment behind a role that was just written. */
async function mayUse(requester: KubeRequester, user: string, rule: KubeRule): Promise<boolean> {
  const verb = rule.verbs[0] ?? '*';
  const url = rule.nonResourceURLs?.[0];
  const [resource = '*', subresource] = (rule.resources?.[0] ?? '*').split('/');
  const name = rule.resourceNames?.[0];
  const what =
    url === undefined
      ? {
          resourceAttributes: {
            verb,
            resource,
            group: rule.apiGroups?.[0] ?? '',
            ...(subresource === undefined ? {} : { subresource }),
            ...(name === undefined ? {} : { name }),
          },
        }
      : { nonResourceAttributes: { verb, path: url.replace('*', 'any') } };
  const groups = user.startsWith('system:serviceaccount:')
    ? ['system:serviceaccounts', 'system:authenticated']
    : ['system:authenticated'];
  const body = await expectOk(
    requester,
    ['POST', '/apis/authorization.k8s.io/v1/subjectaccessreviews'],
    { body: { spec: { user, groups, ...what } } },
  );
  return (body as { status: { allowed: boolean } }).status.allowed;
}

async function uidOf(requester: KubeRequester, path: string, made: unknown): Promise<string> {
  const given = made as { metadata?: { uid?: string } };
  if (given.metadata?.uid !== undefined) return given.metadata.uid;
  const there = await expectOk(requester, ['GET', path]);
  return (there as { metadata: { uid: string } }).metadata.uid;
}
