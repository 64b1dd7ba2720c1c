//go:build cilium_1.19 || cilium_1.20

package main

import (
	"github.com/cilium/cilium/pkg/clustermesh/store"
	"github.com/cilium/cilium/pkg/identity"
)

// laterPodFields sets what 1.18 does not have.
func (g generator) laterPodFields(pair *identity.IPIdentityPair) { pair.K8sServiceAccount = g.word() }

// laterBackendFields sets what 1.18 does not have.
func (g generator) laterBackendFields(made *store.ClusterService, backend string) {
	if g.flip() {
		zone := store.BackendZone{Zone: g.word()}
		for range g.IntN(3) {
			zone.ForZones = append(zone.ForZones, store.ForZone{Name: g.word()})
		}
		made.Zones[backend] = zone
	}
}
