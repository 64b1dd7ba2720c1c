/** How an agent finds out whether a machine serves a port of a Service. Pure. */
import type { ServiceObject, ServicePortObject } from '../sources/service-object.ts';

/** Annotation of a Service: `tcp`, `tcp:<port>` or `http:<port>[/path]`. */
export const HEALTH_CHECK_ANNOTATION = 'isthmus.io/health-check';

/** Long enough not to weigh on a machine, short enough that one which fails is out of service in a quarter of a minute. */
const PERIOD_MS = 5_000;
const TIMEOUT_MS = 2_000;
const FAILURES = 3;
const MAX_PATH_LENGTH = 1024;

/** One check. Equal checks have one name, whichever Services ask for them. */
export interface HealthCheck {
  /** What is checked, in words that are its name as well: `tcp:5432`, `http:8080/healthz`. */
  readonly check: string;
  readonly kind: 'tcp' | 'http';
  readonly port: number;
  /** Of `http`; else empty. */
  readonly path: string;
  readonly periodMs: number;
  readonly timeoutMs: number;
  /** Failures in a row that count as one. */
  readonly failures: number;
}

/** What a Service asks for. */
export type HealthCheckSetting =
  /** The port that it sends to, each by itself. */
  | { readonly kind: 'target' }
  | { readonly kind: 'tcp'; readonly port: number }
  | { readonly kind: 'http'; readonly port: number; readonly path: string };

/** Reads the annotation's value; undefined for one that cannot be read. */
export function parseHealthCheck(value: string): HealthCheckSetting | undefined {
  if (value === 'tcp') return { kind: 'target' };
  const tcp = /^tcp:(\d{1,5})$/.exec(value);
  if (tcp !== null) {
    const port = Number(tcp[1]);
    return isPort(port) ? { kind: 'tcp', port } : undefined;
  }
  const http = /^http:(\d{1,5})(\/[\x21-\x7e]*)?$/.exec(value);
  if (http === null) return undefined;
  const [, text, path = '/'] = http;
  const port = Number(text);
  if (!isPort(port) || path.length > MAX_PATH_LENGTH) return undefined;
  return { kind: 'http', port, path };
}

/** Port number on a machine for a port of a Service; undefined where it is a name: a machine's ports have none. */
export function targetOf({ targetPort, port }: ServicePortObject): number | undefined {
  return typeof targetPort === 'string' ? undefined : (targetPort ?? port);
}

/**
 * The check for one port of a Service; undefined: there is none, and its machines serve as long as they are there. Whether
 * somebody listens cannot be seen of UDP and SCTP.
 */
export function checkOfPort(
  setting: HealthCheckSetting,
  port: ServicePortObject,
): HealthCheck | undefined {
  switch (setting.kind) {
    case 'tcp':
      return makeCheck('tcp', setting.port, '');
    case 'http':
      return makeCheck('http', setting.port, setting.path);
    case 'target': {
      const target = targetOf(port);
      return port.protocol === 'TCP' && target !== undefined
        ? makeCheck('tcp', target, '')
        : undefined;
    }
    default:
      throw setting satisfies never;
  }
}

/** The checks that a Service asks of every machine that it selects. */
export function checksOfService(
  service: Pick<ServiceObject, 'ports'>,
  setting: HealthCheckSetting,
): readonly HealthCheck[] {
  return service.ports.flatMap((port) => {
    const check = targetOf(port) === undefined ? undefined : checkOfPort(setting, port);
    return check === undefined ? [] : [check];
  });
}

function makeCheck(kind: HealthCheck['kind'], port: number, path: string): HealthCheck {
  const check = `${kind}:${port}${path}`;
  return {
    check,
    kind,
    port,
    path,
    periodMs: PERIOD_MS,
    timeoutMs: TIMEOUT_MS,
    failures: FAILURES,
  };
}

function isPort(port: number): boolean {
  return port >= 1 && port <= 65_535;
}
