/** When certificates in use run out. */
import { X509Certificate } from 'node:crypto';

const CERTIFICATE = /-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g;

/** A certificate with less than this left is late in any case. */
const LATE_MS = 14 * 24 * 3_600_000;
/** Of a short life this part: whoever renews by itself has done so before. */
const LATE_PART = 1 / 4;

/** Milliseconds since 1970 at which the first certificate of a PEM file runs out; undefined when it holds none. */
export function certificateExpiry(pem: Buffer | string): number | undefined {
  return earliest(certificatesOf(pem).map(({ validTo }) => Date.parse(validTo)));
}

/** Milliseconds since 1970 from which on one of them should have been replaced; undefined when it holds none. */
export function certificateDue(pem: Buffer | string): number | undefined {
  return earliest(
    certificatesOf(pem).map(({ validFrom, validTo }) => {
      const end = Date.parse(validTo);
      return end - Math.min(LATE_MS, (end - Date.parse(validFrom)) * LATE_PART);
    }),
  );
}

function certificatesOf(pem: Buffer | string): X509Certificate[] {
  return [...pem.toString().matchAll(CERTIFICATE)].flatMap(([block]) => {
    try {
      return [new X509Certificate(block)];
    } catch {
      // Not one that can be used, so none that can run out: whoever uses the file says what is wrong with it.
      return [];
    }
  });
}

function earliest(times: readonly number[]): number | undefined {
  return times.length === 0 ? undefined : Math.min(...times);
}
