import { networkInterfaces } from 'node:os';
import { type IpAddress, parseIpAddress } from '../../mesh/wire/ip.ts';

/** Addresses of the host that this process runs on, without loopback ones: no machine can have them. */
export function ownAddresses(): readonly IpAddress[] {
  return Object.values(networkInterfaces())
    .flatMap((addresses) => addresses ?? [])
    .filter(({ internal }) => !internal)
    .map(({ address }) => parseIpAddress(address));
}
