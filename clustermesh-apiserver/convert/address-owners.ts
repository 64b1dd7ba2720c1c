/** Which of several objects that claim an address publishes it: the first, and after it the next in order, as Cilium does. */
export interface AddressOwners<Address extends string> {
  /** Notes a claim; true when the claimant owns the address now. Claiming again changes nothing. */
  claim(address: Address, claimant: string): boolean;
  /** Takes a claim back; the claimant that owns the address from now on, if that changed. */
  release(address: Address, claimant: string): string | undefined;
  ownerOf(address: Address): string | undefined;
}

/** Makes an empty book of owners. */
export function createAddressOwners<Address extends string>(): AddressOwners<Address> {
  const claims = new Map<Address, string[]>();
  return {
    claim(address, claimant) {
      const queue = claims.get(address) ?? [];
      if (!queue.includes(claimant)) queue.push(claimant);
      claims.set(address, queue);
      return queue[0] === claimant;
    },
    release(address, claimant) {
      const queue = claims.get(address);
      if (queue === undefined) return undefined;
      const owned = queue[0] === claimant;
      const rest = queue.filter((candidate) => candidate !== claimant);
      if (rest.length === 0) claims.delete(address);
      else claims.set(address, rest);
      return owned ? rest[0] : undefined;
    },
    ownerOf: (address) => claims.get(address)?.[0],
  };
}
