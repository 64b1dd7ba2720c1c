/** Other sides of a rule of Cilium's kinds (`pkg/policy/api/{ingress,egress,cidr,service}.go`). */
import { excerpt } from '../../mesh/wire/wire-error.ts';
import { cidrPeer, parseCidr, parseExceptions } from './cidr-peer.ts';
import { entityPeers } from './cilium-entities.ts';
import { limitCluster, limitPeer } from './cilium-selectors.ts';
import { isAbsent, listAt, recordAt, refuseOthers, textAt } from './manifest-field.ts';
import type { ParseContext } from './parse-context.ts';
import { PolicyError } from './policy-error.ts';
import type { PeerMatch } from './rule.ts';
import { parseSelector, type Selector } from './selector.ts';

type ParsePeer = (value: unknown, path: string, context: ParseContext) => readonly PeerMatch[];

/** The ways to name other sides, without the `from` or `to` before them. */
const WAYS: readonly { readonly suffix: string; readonly parse: ParsePeer }[] = [
  { suffix: 'Endpoints', parse: parseEndpoints },
  { suffix: 'Entities', parse: parseEntity },
  {
    suffix: 'CIDR',
    parse: (value, path) => [cidrPeer(parseCidr(value, path, { bareAddress: true }))],
  },
  { suffix: 'CIDRSet', parse: parseCidrRule },
  { suffix: 'Nodes', parse: parseNodes },
];
const SERVICES = { suffix: 'Services', parse: parseService };

const CIDR_FIELDS = new Set(['cidr', 'cidrGroupRef', 'cidrGroupSelector', 'except']);
const SERVICE_FIELDS = new Set(['k8sService', 'k8sServiceSelector']);
const SERVICE_NAME_FIELDS = new Set(['serviceName', 'namespace']);
const SERVICE_SELECTOR_FIELDS = new Set(['selector', 'namespace']);

/** Fields of a rule that name other sides. */
export function peerFields(prefix: 'from' | 'to'): string[] {
  return waysOf(prefix).map(({ suffix }) => prefix + suffix);
}

/**
 * Parses every list of other sides of a rule; undefined when there is none, which is not the same as an empty one: that
 * names nobody (`mergeEndpointSelectors` in Cilium's `pkg/k8s/apis/cilium.io/utils`). Throws PolicyError, also for two ways
 * in one rule: Cilium refuses that, and nobody can tell whether either or both were meant.
 */
export function parsePeers(
  rule: Readonly<Record<string, unknown>>,
  { path, prefix, context }: { path: string; prefix: 'from' | 'to'; context: ParseContext },
): readonly PeerMatch[] | undefined {
  let found: { readonly field: string; readonly peers: readonly PeerMatch[] } | undefined;
  let namesNobody = false;
  for (const { suffix, parse } of waysOf(prefix)) {
    const field = prefix + suffix;
    if (isAbsent(rule[field])) continue;
    const list = listAt(rule[field], `${path}.${field}`);
    const peers = list.flatMap((item, index) => parse(item, `${path}.${field}[${index}]`, context));
    if (list.length === 0) {
      namesNobody = true;
      continue;
    }
    if (found !== undefined) {
      throw new PolicyError(
        'invalid',
        `${path}.${field}`,
        `must not stand beside ${found.field}: write a rule for each`,
      );
    }
    found = { field, peers };
  }
  return namesNobody ? [] : found?.peers;
}

/** Parses `fromRequires` or `toRequires`. Throws PolicyError. */
export function parseRequires(value: unknown, path: string, context: ParseContext): Selector[] {
  return listAt(value, path).map((item, index) =>
    limitPeer(parseSelector(item, { path: `${path}[${index}]`, sourced: true }), context),
  );
}

function waysOf(prefix: 'from' | 'to'): typeof WAYS {
  return prefix === 'from' ? WAYS : [...WAYS, SERVICES];
}

function parseEndpoints(value: unknown, path: string, context: ParseContext): PeerMatch[] {
  const selector = parseSelector(value, { path, sourced: true });
  return [{ kind: 'selector', selector: limitPeer(selector, context) }];
}

function parseEntity(value: unknown, path: string, context: ParseContext): readonly PeerMatch[] {
  const peers = typeof value === 'string' ? entityPeers(value, context.clusterName) : undefined;
  if (peers !== undefined) return peers;
  throw new PolicyError(
    'unsupported',
    path,
    `is ${excerpt(value)}, which is no entity that this version knows`,
  );
}

function parseNodes(value: unknown, path: string, context: ParseContext): PeerMatch[] {
  const selector = parseSelector(value, { path, sourced: true });
  return [{ kind: 'nodes', selector: limitCluster(selector, context) }];
}

function parseCidrRule(value: unknown, path: string): PeerMatch[] {
  const object = recordAt(value, path);
  refuseOthers(object, CIDR_FIELDS, path);
  const { cidr, cidrGroupRef, cidrGroupSelector } = object;
  const given = [cidr, cidrGroupRef, cidrGroupSelector].filter(
    (field) => !isAbsent(field) && field !== '',
  );
  if (given.length !== 1) {
    throw new PolicyError(
      'invalid',
      path,
      'must have one of cidr, cidrGroupRef and cidrGroupSelector',
    );
  }
  if (given[0] === cidr) {
    const prefix = parseCidr(cidr, `${path}.cidr`, { bareAddress: false });
    return [cidrPeer(prefix, parseExceptions(object.except, `${path}.except`, prefix))];
  }
  const except = listAt(object.except, `${path}.except`).map((item, index) =>
    parseCidr(item, `${path}.except[${index}]`, { bareAddress: false }),
  );
  const group =
    given[0] === cidrGroupRef
      ? { name: textAt(cidrGroupRef, `${path}.cidrGroupRef`) }
      : {
          selector: parseSelector(cidrGroupSelector, {
            path: `${path}.cidrGroupSelector`,
            sourced: false,
          }),
        };
  return [{ kind: 'cidr-group', group, except }];
}

function parseService(value: unknown, path: string): PeerMatch[] {
  const object = recordAt(value, path);
  refuseOthers(object, SERVICE_FIELDS, path);
  const { k8sService, k8sServiceSelector } = object;
  if (isAbsent(k8sService) === isAbsent(k8sServiceSelector)) {
    throw new PolicyError('invalid', path, 'must have one of k8sService and k8sServiceSelector');
  }
  if (isAbsent(k8sService)) {
    const service = parseServiceSelector(k8sServiceSelector, `${path}.k8sServiceSelector`);
    return [{ kind: 'service', service }];
  }
  const at = `${path}.k8sService`;
  const name = recordAt(k8sService, at);
  refuseOthers(name, SERVICE_NAME_FIELDS, at);
  // Cilium takes a name without a namespace for the Services of that name in all of them: nobody means that.
  const service = {
    namespace: textAt(name.namespace, `${at}.namespace`),
    name: textAt(name.serviceName, `${at}.serviceName`),
  };
  return [{ kind: 'service', service }];
}

function parseServiceSelector(
  value: unknown,
  path: string,
): { namespace: string | undefined; selector: Selector } {
  const object = recordAt(value, path);
  refuseOthers(object, SERVICE_SELECTOR_FIELDS, path);
  return {
    namespace: namespaceOf(object.namespace, `${path}.namespace`),
    selector: parseSelector(object.selector, { path: `${path}.selector`, sourced: true }),
  };
}

function namespaceOf(value: unknown, path: string): string | undefined {
  // Every one, as in Cilium.
  return isAbsent(value) || value === '' ? undefined : textAt(value, path);
}
