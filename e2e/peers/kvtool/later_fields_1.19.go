//go:build cilium_1.19 || cilium_1.20

package main

import (
	corev1 "k8s.io/api/core/v1"

	mcsapi "github.com/cilium/cilium/pkg/clustermesh/mcsapi/types"
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

// laterExportFields sets what 1.18 does not have.
func (g generator) laterExportFields(made *mcsapi.MCSAPIServiceSpec) {
	if g.flip() {
		made.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}[:1+g.IntN(2)]
	}
	if g.flip() {
		policy := corev1.ServiceInternalTrafficPolicyLocal
		made.InternalTrafficPolicy = &policy
	}
	if g.flip() {
		distribution := corev1.ServiceTrafficDistributionPreferClose
		made.TrafficDistribution = &distribution
	}
}
