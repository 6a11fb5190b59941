// SPDX-License-Identifier: Apache-2.0

package kube

// Domain is the prefix of every name that this project puts on an object.
const Domain = "sluice-lb.io"

// Class is the default loadBalancerClass (Service spec.loadBalancerClass).
const Class = Domain + "/sluice"

// Namespace holds the objects that belong to no user: the claims of VIPs and the facts of nodes.
const Namespace = "sluice-system"

// Annotations that users write on a Service.
const (
	// AnnotationNetworks lists the networks of a Service: "name, namespace/name".
	AnnotationNetworks = Domain + "/networks"
	// AnnotationIPs lists the addresses that a Service asks for, one of each family for each network:
	// "192.168.20.240, fd00:20::f0".
	AnnotationIPs = Domain + "/ips"
	// AnnotationIPFamilies overrides spec.ipFamilies and spec.ipFamilyPolicy, which the cluster's own families bound:
	// "IPv4, IPv6".
	AnnotationIPFamilies = Domain + "/ip-families"
	// AnnotationSharingKey lets Services that have the same one share VIPs, as far as their ports are disjoint. It counts
	// within a namespace, unless the network says otherwise.
	AnnotationSharingKey = Domain + "/sharing-key"
	// AnnotationForwarding chooses how packets reach the pods: "direct".
	AnnotationForwarding = Domain + "/forwarding"
)

// What the controller writes on a Service.
const (
	// AnnotationVIPs maps each network to the Service's addresses on it, as JSON:
	// {"default/macvlan1":["192.168.20.240","fd00:20::f0"]}. It is a report for people, who may write anything there: what
	// is served, claims say.
	AnnotationVIPs = Domain + "/vips"
	// ConditionAllocated tells in the Service's status whether every network gave its VIP, and why not.
	ConditionAllocated = Domain + "/Allocated"
)

// What the controller writes on an EndpointSlice. kube-proxy leaves slices with LabelProxyName out, and controllers of
// the cluster leave slices alone whose LabelManagedBy is not theirs.
const (
	LabelManagedBy   = "endpointslice.kubernetes.io/managed-by"   // value: Domain
	LabelProxyName   = "service.kubernetes.io/service-proxy-name" // value: Domain
	LabelServiceName = Domain + "/service-name"                   // never kubernetes.io/service-name
	// AnnotationNetwork names a slice's network. It is no label: "namespace/name" holds a slash and may be longer than
	// the 63 characters that a label's value may have. A user may write it on a slice for a Service without a selector.
	AnnotationNetwork = Domain + "/network"
	// AnnotationMACs maps each address of a slice to its MAC, as JSON: {"192.168.20.20":"02:00:5e:10:00:01"}. On a node's
	// facts, it maps each segment to the MAC of the node's master: {"eth1":"02:00:5e:20:00:01"}.
	AnnotationMACs = Domain + "/macs"
)

// ManagedByKubernetes is the value of LabelManagedBy on slices that Kubernetes makes of pods' first addresses.
const ManagedByKubernetes = "endpointslice-controller.k8s.io"

// What the controller writes on a claim, the Lease that gives one VIP to one Service, or to several with one sharing key.
// It lies in Namespace, where users may not write.
const (
	LabelClaim        = Domain + "/claim"   // value: "true"
	AnnotationSegment = Domain + "/segment" // the layer-2 segment that the address lives on
	AnnotationAddress = Domain + "/address"
	AnnotationService = Domain + "/service" // of a VIP that is not shared: namespace/name; the holder is spec.holderIdentity
	// AnnotationSharers lists those who share a VIP, as JSON:
	// [{"service":"default/web","uid":"...","network":"default/macvlan1"}].
	AnnotationSharers = Domain + "/sharers"
)

// What a node's facts say, in a Lease named like the node; see AnnotationMACs too.
const (
	LabelNodeFacts = Domain + "/node-facts" // value: "true"
	// AnnotationSegments lists the segments on which the node is a candidate for VIPs: "eth1,bond0".
	AnnotationSegments = Domain + "/segments"
	// AnnotationAddresses maps each segment to the address of the node's master by which peers watch it with BFD:
	// {"eth1":"fe80::5eff:fe20:1"}.
	AnnotationAddresses = Domain + "/addresses"
)

// Reasons of issues about objects. They are stable: users and alerts match on them.
const (
	ReasonInvalidAnnotation     = "InvalidAnnotation"
	ReasonInvalidAddress        = "InvalidAddress"
	ReasonInvalidIPFamily       = "InvalidIPFamily"
	ReasonInvalidNetworkName    = "InvalidNetworkName"
	ReasonInvalidNetwork        = "InvalidNetwork"
	ReasonNetworkWarning        = "NetworkWarning"
	ReasonInvalidSourceRange    = "InvalidLoadBalancerSourceRange"
	ReasonInvalidSharingKey     = "InvalidSharingKey"
	ReasonForeignStatus         = "ForeignStatus"
	ReasonSettingsDiffer        = "SettingsDiffer"
	ReasonInvalidAffinity       = "InvalidSessionAffinity"
	ReasonInvalidSlice          = "InvalidSlice"
	ReasonInvalidClaim          = "InvalidClaim"
	ReasonInvalidNodeFacts      = "InvalidNodeFacts"
	ReasonNoNetworks            = "NoNetworks"
	ReasonUnsupportedAnnotation = "UnsupportedAnnotation"
	ReasonUnsupportedProtocol   = "UnsupportedProtocol"
	ReasonUnsupportedTopology   = "UnsupportedTrafficDistribution"
	ReasonUnsupportedForwarding = "UnsupportedForwarding"
)
