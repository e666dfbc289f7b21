# The Java client: library, conformance driver, bench program. Needs a JDK and Maven; paths are relative to the top.
# MAVEN_ARGS= for more arguments to Maven.
JAVA_MAVEN = mvn --batch-mode --quiet -Dstyle.color=never --file clients/java/pom.xml $(MAVEN_ARGS)
JAVA_PLATFORM := $(if $(filter aarch64 arm64,$(shell uname -m)),aarch_64,x86_64)
JAVA_GENERATORS := clients/java/target/generators

.PHONY: client-java-generate
client-java-generate: $(INSTALLED) ## make the Java code of the protos, below clients/java/*/target (needs a JDK and Maven)
	@rm -rf $(JAVA_GENERATORS) clients/java/client/target/generated-sources clients/java/conformance/target/generated-sources
	$(JAVA_MAVEN) --non-recursive -Dgenerator.platform=linux-$(JAVA_PLATFORM) dependency:copy@generators
	@cd $(JAVA_GENERATORS) && sed -n 's,  $(JAVA_PLATFORM)/,  ,p' $(CURDIR)/clients/java/generators.sha256 | sha256sum --check --strict --quiet
	@chmod 0755 $(JAVA_GENERATORS)/*
	.venv/bin/buf generate --template clients/java/buf.gen.yaml
	.venv/bin/buf generate --template clients/java/conformance/buf.gen.yaml

.PHONY: client-java
client-java: client-java-generate ## build the Java client, its conformance driver and its bench program
	$(JAVA_MAVEN) -DskipTests package

.PHONY: client-java-check
client-java-check: client-java-generate ## check format and warnings of the Java client, and test it against real processes
	$(JAVA_MAVEN) spotless:check
	$(JAVA_MAVEN) package

.PHONY: client-java-format
client-java-format: $(INSTALLED) ## format the Java client's sources
	$(JAVA_MAVEN) spotless:apply
