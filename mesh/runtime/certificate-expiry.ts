/** When certificates in use run out. */
import { X509Certificate } from 'node:crypto';

const CERTIFICATE = /-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g;

/** Milliseconds since 1970 at which the first certificate of a PEM file runs out; undefined when it holds none. */
export function certificateExpiry(pem: Buffer | string): number | undefined {
  const ends: number[] = [];
  for (const [block] of pem.toString().matchAll(CERTIFICATE)) {
    try {
      ends.push(Date.parse(new X509Certificate(block).validTo));
    } catch {
      // Not one that can be used, so none that can run out: whoever uses the file says what is wrong with it.
    }
  }
  return ends.length === 0 ? undefined : Math.min(...ends);
}
